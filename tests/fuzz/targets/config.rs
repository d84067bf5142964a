//! The configuration: any text is refused with a reason, or makes a configuration. Nothing panics.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::config::{Overrides, parse};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(faults) = parse(text, &Overrides::default()) {
        assert!(!faults.is_empty());
        for fault in faults {
            assert!(!fault.to_string().is_empty());
        }
    }
});
