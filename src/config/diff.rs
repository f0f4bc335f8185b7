//! Which changed keys need a restart.

use serde_json::Value;

use super::compiled::Config;

/// True if a key differs.
type Differs = fn(&Config, &Config) -> bool;

/// The keys that take effect at the next start; all others apply at once.
const RESTART_KEYS: [(&str, Differs); 10] = [
    ("listen", |old, new| old.listen != new.listen),
    ("control.listen", |old, new| old.control.listen() != new.control.listen()),
    ("control.limits.max_connections", |old, new| {
        old.control.max_connections() != new.control.max_connections()
    }),
    ("server.threads", |old, new| old.server.threads() != new.server.threads()),
    ("session.store", |old, new| old.session.store() != new.session.store()),
    ("session.redis", |old, new| {
        let both = old.session.redis().zip(new.session.redis());
        both.is_some_and(|(old, new)| !old.follows(new))
    }),
    ("data_dir", |old, new| old.data_dir != new.data_dir),
    // Covers `history.enabled` and `history.file`: both change which file is written.
    ("history.file", |old, new| old.history.file(&new.data_dir) != new.history.file(&new.data_dir)),
    ("history.legs", |old, new| old.history.keeps_all_legs() != new.history.keeps_all_legs()),
    ("telemetry", |old, new| old.telemetry != new.telemetry),
];

/// Returns the changed keys that need a restart.
pub fn changed_restart_keys(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = RESTART_KEYS.iter().filter(|(_, differs)| differs(old, new));
    changed.map(|(key, _)| *key).collect()
}

/// Returns the keys that an entry of [`RESTART_KEYS`] covers, as JSON pointers.
fn pointers(key: &str) -> &'static [&'static str] {
    match key {
        "listen" => &["/listen"],
        "control.listen" => &["/control/listen"],
        "control.limits.max_connections" => &["/control/limits/max_connections"],
        "server.threads" => &["/server/threads"],
        "session.store" => &["/session/store"],
        // All but `flush_interval` and `on_unavailable`, which apply at once.
        "session.redis" => &[
            "/session/redis/url",
            "/session/redis/addr",
            "/session/redis/username",
            "/session/redis/password",
            "/session/redis/password_file",
            "/session/redis/db",
            "/session/redis/tls",
            "/session/redis/key_prefix",
            "/session/redis/pool",
        ],
        "data_dir" => &["/data_dir"],
        "history.file" => &["/history/enabled", "/history/file"],
        "history.legs" => &["/history/legs"],
        "telemetry" => &["/telemetry"],
        _ => &[],
    }
}

/// Returns the values in force in a process that started with `started` and has reloaded `current`; lists the changed
/// keys that need a restart under `restart_required`.
pub fn in_force(started: &Config, current: &Config) -> Value {
    let waiting = changed_restart_keys(started, current);
    let (mut shown, old) = (current.printable(), started.printable());
    for pointer in waiting.iter().flat_map(|key| pointers(key)) {
        if let (Some(value), Some(old)) = (shown.pointer_mut(pointer), old.pointer(pointer)) {
            *value = old.clone();
        }
    }
    shown["restart_required"] = Value::from(waiting);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_needs_a_restart_is_shown_as_it_is_in_force() {
        let config = crate::config::Sources::default().load().unwrap();
        let shown = config.printable();
        for (key, _) in RESTART_KEYS {
            assert!(!pointers(key).is_empty(), "{key}");
            assert!(pointers(key).iter().all(|pointer| shown.pointer(pointer).is_some()), "{key}: {shown}");
        }
    }
}
