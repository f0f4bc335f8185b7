//! The parts of the bench of the whole gateway.

pub(crate) mod arguments;
pub(crate) mod budget;
pub(crate) mod callgrind;
pub(crate) mod children;
pub(crate) mod collector;
pub(crate) mod equipment;
pub(crate) mod figures;
pub(crate) mod files;
pub(crate) mod load;
pub(crate) mod others;
pub(crate) mod process;
pub(crate) mod report;
pub(crate) mod roles;
pub(crate) mod rounds;
pub(crate) mod scale;
pub(crate) mod source;
pub(crate) mod stats;
pub(crate) mod streams;
pub(crate) mod syscalls;
