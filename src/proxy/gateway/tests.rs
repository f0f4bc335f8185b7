//! Sizes of what each request allocates.

use super::*;

/// The size of a future that is never made.
fn size<F>(_: impl FnOnce(&'static Gateway, &'static mut Session, &'static mut RequestCtx) -> F) -> usize {
    size_of::<F>()
}

fn never<T>() -> T {
    unreachable!("the future is never made")
}

/// The future of a phase is boxed for each request, and so is the context.
#[test]
fn what_is_boxed_for_each_request_is_small() {
    for (what, size, limit) in [
        ("the context", size_of::<RequestCtx>(), 1296),
        ("the steps before routing", size(|gateway, session, ctx| gateway.prepare(session, ctx)), 2744),
        ("the choice of an address", size(|_, _, _| dispatch::peer(never(), never())), 640),
    ] {
        assert!(size <= limit, "{what}: {size}");
    }
}
