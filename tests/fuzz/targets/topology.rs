//! The topology message: any bytes are refused with a reason or make a topology that prints and reads back as itself.

#![no_main]

use cluster::wire;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match wire::parse(data) {
        Err(faults) => assert!(!faults.is_empty() && faults.iter().all(|fault| !fault.is_empty())),
        Ok(topology) => {
            let printed = wire::print(&topology);
            match wire::parse(printed.as_bytes()) {
                Ok(again) => assert_eq!(again, topology),
                Err(faults) => panic!("{printed}\n{faults:?}"),
            }
            assert_eq!(wire::may_follow(Some(&topology), &topology), Ok(()));
            assert!(usize::from(topology.slot_of(data)) < topology.slots().len());
        }
    }
});
