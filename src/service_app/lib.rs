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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_application_is_moved() {
        let app = Arc::new("app");
        let service = Service::new("name".to_owned(), Arc::clone(&app));
        let taken = into_app(service).expect("a service that was not started");
        assert_eq!((Arc::strong_count(&app), Arc::ptr_eq(&app, &taken)), (2, true));
        drop(taken);
        assert_eq!(Arc::strong_count(&app), 1, "dropped once");
    }
}
