//! Checks of the host: data folder, certificate, open files, clock.

use std::path::Path;
use std::time::SystemTime;

use rustix::process::{Resource, getrlimit};

use super::{Finding, Health};
use crate::app::Plan;
use crate::config::Config;
use crate::settings::folder::why_not_writable;

/// Exists while systemd-timesyncd synchronises the clock.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

/// Checks that the data folder can be written to.
pub(super) fn folder(folder: &Path) -> Finding {
    let shown = folder.display();
    match why_not_writable(folder) {
        None => Finding::ok("data_dir", format!("{shown} can be written to")),
        Some(why) => {
            let message =
                format!("{shown} cannot be written to ({why}): principals get new names at each start");
            let remedy =
                format!("set another folder in data_dir, or: mkdir -p {shown} && chown $USER {shown}");
            Finding::new(Health::Warn, "data_dir", message, remedy)
        }
    }
}

/// Checks how long the listener's certificate is valid. That it matches its key is checked with the configuration.
pub(super) fn certificate(config: &Config) -> Option<Finding> {
    let check = "server.tls";
    Some(match config.server.tls()?.check_dates(SystemTime::now()) {
        Ok(left) => {
            Finding::ok(check, format!("the certificate is valid for {} days", left.as_secs() / 86_400))
        }
        Err(why) => {
            let remedy = "renew the certificate in server.tls.cert, then reload";
            Finding::new(Health::Fail, check, why, remedy)
        }
    })
}

/// Checks that the limit of open files allows `server.limits.max_connections`. The gateway raises the soft limit by itself,
/// so the hard limit counts.
pub(super) fn open_files(config: &Config) -> Finding {
    judge_files(getrlimit(Resource::Nofile).maximum, config)
}

fn judge_files(limit: Option<u64>, config: &Config) -> Finding {
    let check = "open files";
    let plan = Plan::new(limit, config);
    let (fits, wanted) = (plan.connections(), config.server.limits().max_connections);
    match limit {
        None => Finding::ok(check, "no limit"),
        Some(limit) if fits == wanted => {
            Finding::ok(check, format!("{limit} are enough for {wanted} connections"))
        }
        Some(limit) => {
            let needed = plan.needed();
            let message = format!(
                "the hard limit here is {limit}: enough for {fits} connections, not for the {wanted} of \
                 server.limits.max_connections"
            );
            let remedy = format!(
                "ulimit -H -n {needed} (LimitNOFILE={needed} in a systemd unit), or fewer connections"
            );
            Finding::new(Health::Warn, check, message, remedy)
        }
    }
}

/// Checks that the clock is plausible. Timeouts do not depend on it, but certificates and records do.
pub(super) fn clock() -> Finding {
    let built = std::env::current_exe().and_then(std::fs::metadata).and_then(|file| file.modified());
    judge_clock(SystemTime::now(), built.ok(), Path::new(SYNCHRONISED).exists())
}

fn judge_clock(now: SystemTime, built: Option<SystemTime>, is_synchronised: bool) -> Finding {
    let shown = jiff::Timestamp::try_from(now)
        .map_or_else(|_| "an impossible time".into(), |now| format!("{now:.0}"));
    if built.is_some_and(|built| now < built) {
        let message = format!("it is {shown} here, which is before this program was installed");
        let remedy = "set the clock: certificates are checked against it (timedatectl set-ntp true)";
        return Finding::new(Health::Fail, "clock", message, remedy);
    }
    let source = if is_synchronised { ", synchronised by systemd-timesyncd" } else { "" };
    Finding::ok("clock", format!("it is {shown}{source}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Flags, Sources};

    #[test]
    fn open_files_are_counted_twice_per_connection() {
        let config = Sources::of_text(String::new(), Flags::default()).load().unwrap();
        assert_eq!(judge_files(None, &config).status, Health::Ok);
        assert_eq!(judge_files(Some(44_000), &config).status, Health::Ok);
        let few = judge_files(Some(1024), &config);
        assert_eq!(few.status, Health::Warn);
        assert!(few.message.contains("enough for 360 connections"), "{few:?}");
        assert!(few.remedy.starts_with("ulimit -H -n 43051 "), "{few:?}");
    }

    #[test]
    fn a_clock_before_the_program_is_wrong() {
        let built = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let early = judge_clock(SystemTime::UNIX_EPOCH, Some(built), true);
        assert_eq!(early.status, Health::Fail);
        assert!(early.message.contains("1970-01-01T00:00:00Z"), "{early:?}");
        assert_eq!(judge_clock(built, Some(built), false).message, "it is 2026-09-21T14:13:20Z");
    }
}
