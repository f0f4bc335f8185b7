//! The configuration: any text is either compiled or refused with faults that can be shown. Nothing is
//! read from the machine but the files a text names.
#![no_main]

use elida::config::{Flags, Sources};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // Files are none of the fuzzer's business: a text could name a device that never ends.
    if text.contains("file") {
        return;
    }
    match Sources::of_text(text.to_owned(), Flags::default()).load() {
        Ok(config) => drop(config.printable()),
        Err(faults) => assert!(!faults.to_string().is_empty()),
    }
});
