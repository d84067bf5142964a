//! The header of the PROXY protocol: bytes are one, may become one, or are none. More bytes never change what was
//! decided, and nothing behind the header counts.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::proxy_header::{Step, parse};

fuzz_target!(|data: &[u8]| {
    let mut decided = None;
    for end in 0..=data.len() {
        let said = parse(&data[..end]);
        if let Some(before) = &decided {
            // Why these bytes are none may be known better later.
            assert!(&said == before || (said.is_err() && before.is_err()), "{before:?}, after {end} bytes {said:?}");
        }
        if let Ok(Step::Done { len, .. }) = &said {
            assert!((16..=end).contains(len), "{len} of {end} bytes");
        }
        if said != Ok(Step::More) {
            decided = Some(said);
        }
    }
});
