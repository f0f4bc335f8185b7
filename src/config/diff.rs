//! What a reload may change.

use super::compiled::Config;

/// Tells whether a key differs.
type Differs = fn(&Config, &Config) -> bool;

/// The keys that take effect only at a start; all others apply at once.
const RESTART_KEYS: [(&str, Differs); 9] = [
    ("listen", |old, new| old.listen != new.listen),
    ("control.listen", |old, new| old.control.listen() != new.control.listen()),
    ("server.threads", |old, new| old.server.threads() != new.server.threads()),
    ("session.store", |old, new| old.session.store() != new.session.store()),
    ("session.redis", |old, new| {
        let both = old.session.redis().zip(new.session.redis());
        both.is_some_and(|(old, new)| !old.follows(new))
    }),
    ("data_dir", |old, new| old.data_dir != new.data_dir),
    // One name for both of its keys: either changes which file is written.
    ("history.file", |old, new| old.history.file(&new.data_dir) != new.history.file(&new.data_dir)),
    ("history.legs", |old, new| old.history.keeps_all_legs() != new.history.keeps_all_legs()),
    ("telemetry", |old, new| old.telemetry != new.telemetry),
];

/// The changed keys that a running process cannot follow.
pub fn changed_restart_keys(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = RESTART_KEYS.iter().filter(|(_, differs)| differs(old, new));
    changed.map(|(key, _)| *key).collect()
}
