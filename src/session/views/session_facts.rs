//! What expressions may ask of a session that is not being used: in `when` of a kill and of webhooks.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::session_view::SessionView;
use crate::policy::facts::{Fact, Facts, Value};

/// The facts of a session, those of the phase `session`.
pub struct SessionFacts<'a> {
    /// The session.
    pub session: &'a SessionView,
    /// The time.
    pub now: Timestamp,
}

impl Facts for SessionFacts<'_> {
    fn get(&self, fact: Fact) -> Value<'_> {
        let SessionView { principal, identity, usage, .. } = self.session;
        let utc = || self.now.to_zoned(TimeZone::UTC);
        match fact {
            Fact::PrincipalId => Value::text(Some(principal.id.as_str())),
            Fact::PrincipalKind => Value::text(principal.id.as_str().split(':').next()),
            Fact::PrincipalTenant => Value::text(principal.tenant.as_deref()),
            Fact::ClientName => Value::text(identity.client.as_deref()),
            Fact::ClientVersion => Value::text(identity.client_version.as_deref()),
            Fact::ClientAddr => Value::Text(Cow::Owned(self.session.client_addr.to_canonical().to_string())),
            Fact::SessionId => Value::text(Some(self.session.id.as_str())),
            Fact::SessionAge => {
                let age = self.now.duration_since(self.session.started_at).as_secs();
                Value::Int(age.max(0))
            }
            Fact::SessionRequests => Value::count(self.session.request_count),
            Fact::SessionToolCalls => Value::count(self.session.tools.iter().map(|(_, calls)| calls).sum()),
            Fact::UsageInputTokens => Value::count(usage.prompt_tokens()),
            Fact::UsageOutputTokens => Value::count(usage.output_tokens),
            Fact::UsageCost => usage.cost.as_usd().map_or(Value::Unknown, Value::Float),
            Fact::TimeHour => Value::Int(utc().hour().into()),
            Fact::TimeWeekday => Value::Int(utc().weekday().to_sunday_zero_offset().into()),
            _ => Value::Unknown,
        }
    }

    fn entry(&self, fact: Fact, key: &str) -> Value<'_> {
        match fact {
            Fact::PrincipalLabels => Value::text(self.session.principal.labels.get(key).map(|text| &**text)),
            _ => Value::Unknown,
        }
    }

    fn has(&self, _: Fact, text: &str) -> bool {
        self.session.principal.groups.iter().any(|group| **group == *text)
    }

    fn count(&self, _: Fact) -> usize {
        self.session.principal.groups.len()
    }
}
