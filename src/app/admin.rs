//! Makes the first account, in the file: whoever may write to `data_dir` is an admin anyway. A gateway that runs takes it over
//! within a second.

use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use jiff::Timestamp;

use super::people::PeopleInState;
use crate::config::Config;
use crate::history::audit::line::SCHEMA;
use crate::history::audit::{AuditEntry, AuditLog, OperatorLine};
use crate::history::state::State;
use crate::identity::People;
use crate::identity::people::accounts::Entrance;
use crate::identity::people::password;
use crate::identity::people::user::UserConfig;
use crate::identity::roles::{Reach, Role};
use crate::settings::secret::Secret;
use crate::telemetry::metrics::Metrics;

/// Makes an account with the role admin, or with `resets` gives a known one that role and a new password. Returns the
/// password.
///
/// # Errors
/// The name is taken or not valid, or `state.db` cannot be written.
pub fn make_admin(config: &Config, name: &str, resets: bool) -> anyhow::Result<Secret> {
    let state = Arc::new(State::new(&config.data_dir));
    let people = People::new(Box::new(PeopleInState(Arc::clone(&state))));
    let name = name.trim().to_lowercase();
    let password = password::generate().context("there are no random numbers")?;
    let hash = password::hash(&password).context("there are no random numbers")?;
    let known = people.account(&name);
    let user = UserConfig { name: name.clone(), role: Some(Role::Admin), ..UserConfig::default() };
    let principal = user.principal();
    match (known, resets) {
        (Some(_), false) => {
            bail!(
                "there is an account with the name '{name}'; add --reset for a new password, and the role admin"
            )
        }
        (Some(known), true) => {
            if known.user.tenant.is_some() {
                bail!(
                    "'{name}' is an account of a tenant, and its role would cover that only; choose another name"
                );
            }
            people.enable(&known.user)?;
            people.set_role(&known.user, Some(Role::Admin))?;
            people.set_password(&known.user, hash)?;
        }
        (None, _) => drop(people.create(user, Entrance::Password(hash), &Reach::All)?),
    }
    let entry = AuditEntry {
        schema: SCHEMA.to_owned(),
        at: Timestamp::now(),
        operator: OperatorLine { id: "cli".to_owned(), roles: Vec::new(), address: None },
        action: if resets { "resetAdmin" } else { "createAdmin" }.to_owned(),
        target: principal.to_string(),
        status: 201,
        code: None,
        request_id: None,
        reason: None,
        before: None,
        after: None,
    };
    let metrics = Metrics::new().map_err(|fault| anyhow!("{fault}"))?;
    AuditLog::new(state, &config.data_dir, metrics.history()).record(&entry);
    Ok(password)
}
