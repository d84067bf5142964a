//! The header of the PROXY protocol, version 2: what a load balancer says first on a connection, so that the client's
//! own address is known behind it. Pure: bytes in, an address out.
//!
//! ```text
//! \r\n\r\n\0\r\nQUIT\n   12 bytes that no protocol begins with
//! 0x21                   version 2, and: 1 somebody's connection, 0 the balancer's own (a health check)
//! 0x11                   1 IPv4, 2 IPv6, 3 a unix socket, 0 unknown; and: 1 a stream
//! 0x000c                 how many bytes follow
//! addresses, ports       source, destination; then other things, which are skipped
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version, family, length.
const HEAD: usize = 16;
/// The longest header: addresses take 36 bytes, what TLS balancers add some hundred.
pub const HEADER_MAX: usize = 2048;

/// How far a header has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// All bytes so far may begin a header; more are needed.
    More,
    /// It takes `len` bytes; the client's bytes follow. `source` is the client, None where the balancer speaks for
    /// itself or does not know.
    Done { len: usize, source: Option<SocketAddr> },
}

/// Reads the header at the beginning of `bytes`. Errors: these bytes are none; said for people.
pub fn parse(bytes: &[u8]) -> Result<Step, &'static str> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        let text = bytes.starts_with(b"PROXY ");
        return Err(if text {
            "the text form of the PROXY protocol: the balancer must send version 2 (haproxy: send-proxy-v2)"
        } else {
            "no PROXY header: the balancer must send it (haproxy: send-proxy-v2), and clients must use another address"
        });
    }
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else { return Ok(Step::More) };
    let own = match head[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err("a PROXY header of an unknown version or command"),
    };
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if HEAD + length > HEADER_MAX {
        return Err("a PROXY header above 2 KiB");
    }
    let Some(body) = rest.get(..length) else { return Ok(Step::More) };
    let source = match head[13] {
        _ if own => None,
        0x11 => Some(ipv4(body).ok_or("a PROXY header too short for IPv4 addresses")?),
        0x21 => Some(ipv6(body).ok_or("a PROXY header too short for IPv6 addresses")?),
        0x00 | 0x31 => None,
        _ => return Err("a PROXY header of something that is no stream"),
    };
    Ok(Step::Done { len: HEAD + length, source })
}

/// Two addresses, two ports.
fn ipv4(body: &[u8]) -> Option<SocketAddr> {
    let ip: [u8; 4] = body.get(..4)?.try_into().ok()?;
    let port: [u8; 2] = body.get(..12)?.get(8..10)?.try_into().ok()?;
    Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), u16::from_be_bytes(port)))
}

fn ipv6(body: &[u8]) -> Option<SocketAddr> {
    let ip: [u8; 16] = body.get(..16)?.try_into().ok()?;
    let port: [u8; 2] = body.get(..36)?.get(32..34)?.try_into().ok()?;
    Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)), u16::from_be_bytes(port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A header with this version, family and body.
    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    /// 10.1.2.3:4660 to somewhere.
    const V4: [u8; 12] = [10, 1, 2, 3, 10, 0, 0, 1, 0x12, 0x34, 0x18, 0xec];

    fn v6() -> Vec<u8> {
        [&Ipv6Addr::LOCALHOST.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &[0x12, 0x34, 0, 1]].concat()
    }

    #[test]
    fn who_the_client_is() {
        let more = [&V4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        for (bytes, source) in [
            (header(0x21, 0x11, &V4), Some("10.1.2.3:4660")),
            (header(0x21, 0x11, &more), Some("10.1.2.3:4660")),
            (header(0x21, 0x21, &v6()), Some("[::1]:4660")),
            (header(0x21, 0x31, &[b'/'; 216]), None),
            (header(0x21, 0x00, b""), None),
            (header(0x20, 0x11, &V4), None),
            (header(0x20, 0x00, b""), None),
        ] {
            let source = source.map(|s| s.parse().expect("address"));
            let all = [&bytes[..], b"PING\r\n"].concat();
            assert_eq!(parse(&all), Ok(Step::Done { len: bytes.len(), source }));
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(Step::More), "{cut} bytes of {bytes:?}");
            }
        }
    }

    #[test]
    fn what_is_no_header_says_so_at_its_first_wrong_byte() {
        for (bytes, word) in [
            (b"*1\r\n$4\r\nPING\r\n".to_vec(), "no PROXY header"),
            (b"\r\n\r\nX".to_vec(), "no PROXY header"),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(), "version 2"),
            (header(0x11, 0x11, &V4), "unknown version"),
            (header(0x22, 0x11, &V4), "unknown version"),
            (header(0x21, 0x12, &V4), "no stream"),
            (header(0x21, 0x11, &V4[..11]), "too short"),
            (header(0x21, 0x21, &v6()[..35]), "too short"),
            (header(0x21, 0x11, &[0; HEADER_MAX]), "above 2 KiB"),
        ] {
            let why = parse(&bytes).expect_err("no header");
            assert!(why.contains(word), "{bytes:?}: {why}");
        }
    }

    proptest! {
        /// Bytes nobody chose: no panic, and what is read lies within them.
        #[test]
        fn hostile_bytes(signed: bool, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = if signed { [&SIGNATURE[..], &bytes].concat() } else { bytes };
            if let Ok(Step::Done { len, .. }) = parse(&bytes) {
                prop_assert!((HEAD..=bytes.len()).contains(&len));
            }
        }

        /// A header is the same whatever follows it.
        #[test]
        fn what_follows_does_not_matter(family in prop_oneof![Just(0x11u8), Just(0x21), Just(0), Just(0x31)],
            body in proptest::collection::vec(any::<u8>(), 36..200), after in proptest::collection::vec(any::<u8>(), 0..50)) {
            let alone = header(0x21, family, &body);
            let followed = [&alone[..], &after].concat();
            prop_assert_eq!(parse(&alone), parse(&followed));
        }
    }
}
