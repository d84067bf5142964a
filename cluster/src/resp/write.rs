//! Writing RESP.

/// Appends `:n`.
pub fn integer(out: &mut Vec<u8>, n: i64) {
    header(out, b':', n);
}

/// Appends the header of an array of `n` elements.
pub fn array(out: &mut Vec<u8>, n: usize) {
    header(out, b'*', n as i64);
}

/// Appends a bulk string.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len() as i64);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends a simple string; `text` holds no line end.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends an error; line ends in `text` (it may quote a peer) become spaces.
pub fn error(out: &mut Vec<u8>, text: &str) {
    out.push(b'-');
    out.extend(text.bytes().map(|b| if b == b'\r' || b == b'\n' { b' ' } else { b }));
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole request.
pub fn request(out: &mut Vec<u8>, args: &[&[u8]]) {
    array(out, args.len());
    for arg in args {
        bulk(out, arg);
    }
}

/// Appends `kind`, a number and a line end.
pub fn header(out: &mut Vec<u8>, kind: u8, n: i64) {
    // A sign, 19 digits, and what stands around them.
    let mut line = [0; 23];
    line[21..].copy_from_slice(b"\r\n");
    let mut at = 21;
    let mut rest = n.unsigned_abs();
    loop {
        at -= 1;
        line[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if n < 0 {
        at -= 1;
        line[at] = b'-';
    }
    line[at - 1] = kind;
    out.extend_from_slice(&line[at - 1..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_hold_any_number() {
        for n in [0, 7, 10, 100, -1, i64::MAX, i64::MIN] {
            let mut out = b"x".to_vec();
            integer(&mut out, n);
            assert_eq!(out, format!("x:{n}\r\n").into_bytes());
        }
    }
}
