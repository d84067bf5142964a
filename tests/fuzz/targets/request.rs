//! The request parser: cut anywhere it must say what it says of the whole, and its arguments must be the bytes sent.

#![no_main]

use cluster::resp::request::{Args, Ceilings, Frame, Short, Step, inline_to_resp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, raw)) = data.split_first() else { return };
    let ceilings = if mode & 1 == 0 { Ceilings::OPEN } else { Ceilings::UNAUTHENTICATED };
    let mut rest = raw;
    // A pipeline: as many requests as the bytes hold.
    loop {
        let whole = Frame::default().step(rest, &ceilings);
        let mut frame = Frame::default();
        let cut = in_pieces(&mut frame, rest, &ceilings, usize::from(mode >> 1) + 1);
        assert_eq!(cut, whole, "cut into pieces of {}", usize::from(mode >> 1) + 1);
        // The quick readers must not take what the parser does not.
        if mode & 1 == 0 {
            if let Some(short) = Short::read(rest) {
                assert_eq!(whole, Step::Done { len: short.len });
            }
            let mut args = Args::new(rest);
            let count = args.by_ref().count();
            if count > 0 && args.left() == 0 {
                assert_eq!(whole, Step::Done { len: rest.len() - args.rest().len() });
            }
        }
        let len = match whole {
            Step::Done { len } => {
                arguments(&rest[..len], &frame);
                len
            }
            Step::Inline { len } => {
                people(&rest[..len]);
                len
            }
            Step::Nothing { len } => len,
            Step::More { need } => {
                assert!(need > rest.len(), "more is needed, but {need} bytes are there");
                return;
            }
            Step::Wrong(wrong) => {
                assert!(!wrong.to_string().is_empty());
                return;
            }
        };
        assert!(len > 0 && len <= rest.len());
        rest = &rest[len..];
    }
});

/// What the parser says when `piece` bytes more are shown each time; the last step when all are there.
fn in_pieces(frame: &mut Frame, raw: &[u8], ceilings: &Ceilings, piece: usize) -> Step {
    let mut shown = 0;
    loop {
        shown = (shown + piece).min(raw.len());
        match frame.step(&raw[..shown], ceilings) {
            Step::More { need } if shown < raw.len() => assert!(need > shown),
            last => return last,
        }
    }
}

/// The walk over arguments, the kept ones, and the request written again must agree.
fn arguments(raw: &[u8], frame: &Frame) {
    let args: Vec<&[u8]> = Args::new(raw).collect();
    assert_eq!(args.len(), frame.argc as usize);
    for (i, arg) in args.iter().enumerate().take(cluster::resp::request::KEPT) {
        assert_eq!(frame.kept(i, raw), Some(*arg));
    }
    let mut again = Vec::new();
    cluster::resp::write::request(&mut again, &args);
    assert_eq!(Frame::default().step(&again, &Ceilings::OPEN), Step::Done { len: again.len() });
    assert!(Args::new(&again).eq(args));
}

/// A line typed by a person becomes a whole request, or is refused.
fn people(line: &[u8]) {
    let Ok(raw) = inline_to_resp(line) else { return };
    match Frame::default().step(&raw, &Ceilings::OPEN) {
        Step::Done { len } | Step::Nothing { len } => assert_eq!(len, raw.len()),
        other => panic!("{other:?}"),
    }
}
