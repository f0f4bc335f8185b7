//! Takes the application out of a Pingora service.
//!
//! Pingora 0.9.1 builds a proxy with another upstream connector only inside a [`Service`], which has listeners of its own
//! and lends the application but does not return it. ELIDA accepts connections itself and needs the proxy without the
//! service. This crate is apart so that `elida` can forbid unsafe code.

use std::mem::ManuallyDrop;

use pingora_core::services::listening::Service;

/// Takes the application out of `service`; `None` if the service was started. The rest of the service, its name and
/// empty lists of listeners, is leaked.
pub fn into_app<A>(service: Service<A>) -> Option<A> {
    let service = ManuallyDrop::new(service);
    // SAFETY: the reference is valid for reads, and the application is not used or dropped a second time: `service` is not
    // dropped, and this function has the only access to it.
    service.app_logic().map(|app| unsafe { std::ptr::read(app) })
}
