//! People who log in: their tokens, and their accounts.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::audit::GrantedRole;
use crate::identity::people::sessions::Tokens;
use crate::identity::people::user::ListedUser;
use crate::identity::roles::Role;
use crate::settings::secret::Secret;
use crate::settings::units::DurationText;

/// Body of `POST /auth/login`; both members are required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoginBody {
    /// The name; capitals do not matter.
    pub username: String,
    /// The password.
    #[schemars(with = "String")]
    pub password: Secret,
}

/// Body of `POST /auth/refresh`; the member is required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RefreshBody {
    /// The refresh token, which is used up by this.
    #[schemars(with = "String")]
    pub refresh_token: Secret,
}

/// Body of `POST /auth/logout`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogoutBody {
    /// A refresh token of the log-in that ends; if absent, the one of the access token ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub refresh_token: Option<Secret>,
}

/// Body of `POST /auth/register`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RegisterBody {
    /// The invitation, which names the account; only `auth.people.registration: open` needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub invitation: Option<Secret>,
    /// The name of the new account, without an invitation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password: at least 12 characters.
    #[schemars(with = "String")]
    pub password: Secret,
}

/// Body of `POST /auth/password`; both members are required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PasswordBody {
    /// The password until now.
    #[schemars(with = "String")]
    pub password: Secret,
    /// The new password: at least 12 characters.
    #[schemars(with = "String")]
    pub new_password: Secret,
}

/// Answer with new tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenReply {
    /// The access token: `Authorization: Bearer …`.
    pub access_token: String,
    /// Always `Bearer`.
    pub token_type: String,
    /// Seconds for which the access token is valid.
    pub expires_in: u64,
    /// The refresh token, which is used once.
    pub refresh_token: String,
    /// Seconds for which the refresh token is valid.
    pub refresh_expires_in: u64,
    /// The principal.
    pub id: String,
}

impl TokenReply {
    /// Returns the answer with these tokens of a principal.
    pub fn new(tokens: &Tokens, id: &str) -> Self {
        Self {
            access_token: tokens.access.reveal().to_owned(),
            token_type: "Bearer".to_owned(),
            expires_in: tokens.valid.as_secs(),
            refresh_token: tokens.refresh.reveal().to_owned(),
            refresh_expires_in: tokens.refresh_valid.as_secs(),
            id: id.to_owned(),
        }
    }
}

/// Answer of `POST /auth/logout`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogoutReply {
    /// Whether a log-in has ended; false if it had ended before.
    pub ended: bool,
    /// Open requests that were cut.
    pub legs_cut: usize,
}

/// Answer of `GET /auth/me`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Me {
    /// The principal.
    pub id: String,
    /// The name of the account; null for a caller that did not log in here.
    pub username: Option<String>,
    /// The tenant; null without one.
    pub tenant: Option<String>,
    /// The groups.
    pub groups: Vec<String>,
    /// The roles on the control API.
    pub roles: Vec<GrantedRole>,
}

/// Body of `POST /api/v1/auth/tickets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TicketBody {
    /// The path that the ticket is for: `/control/events`.
    pub path: String,
}

impl Default for TicketBody {
    fn default() -> Self {
        Self { path: "/control/events".to_owned() }
    }
}

/// Answer of `POST /api/v1/auth/tickets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TicketReply {
    /// The ticket, for the parameter `ticket` of the URL. It is used once.
    pub ticket: String,
    /// The path that it is for.
    pub path: String,
    /// Seconds for which it is valid.
    pub expires_in: u64,
}

/// Query of an endpoint that takes a ticket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TicketQuery {
    /// A ticket, instead of the header `Authorization`.
    pub ticket: Option<String>,
}

/// Body of a new account; only `name` is required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewUser {
    /// The name; it is kept in lower case, and the principal is `user:NAME@elida`.
    pub name: String,
    /// The role on the control API, for the objects of the tenant if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Patterns of the models that the person may use; all if the list is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Patterns of the backends that the person may use; all if the list is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// Patterns of the tools that the person may use; all if the list is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// For an invitation: how long it is valid, at most 30 days; 7 days if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<DurationText>,
}

/// Body of a change of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RoleBody {
    /// The role; none if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UserView {
    /// The name.
    pub name: String,
    /// The principal.
    pub id: String,
    /// The role on the control API; null without one.
    pub role: Option<Role>,
    /// The tenant; null without one.
    pub tenant: Option<String>,
    /// The groups.
    pub groups: Vec<String>,
    /// Patterns of the models that the person may use; all if the list is empty.
    pub models: Vec<String>,
    /// Patterns of the backends that the person may use; all if the list is empty.
    pub backends: Vec<String>,
    /// Patterns of the tools that the person may use; all if the list is empty.
    pub tools: Vec<String>,
    /// When the account was made.
    pub created: Timestamp,
    /// When it was disabled; null while it is in force.
    pub disabled: Option<Timestamp>,
    /// Until when the person may choose a password by the invitation; null without one.
    pub invited_until: Option<Timestamp>,
    /// Log-ins that are open.
    pub logins: usize,
}

/// Answer of `GET /api/admin/users`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UserList {
    /// The accounts by name.
    pub users: Vec<UserView>,
}

/// Answer with a new password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MadeUser {
    /// The password. It is shown this once.
    pub password: String,
    /// The account.
    #[serde(flatten)]
    pub user: UserView,
}

/// Answer with an invitation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InvitedUser {
    /// The invitation, for `POST /auth/register`. It is shown this once, and used once.
    pub invitation: String,
    /// The account.
    #[serde(flatten)]
    pub user: UserView,
}

/// Answer to a change of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangedUser {
    /// Open requests that were cut.
    pub legs_cut: usize,
    /// The account.
    #[serde(flatten)]
    pub user: UserView,
}

impl From<ListedUser> for UserView {
    fn from(listed: ListedUser) -> Self {
        let ListedUser { user, created, disabled, invited_until, logins } = listed;
        Self {
            id: user.principal().to_string(),
            name: user.name,
            role: user.role,
            tenant: user.tenant,
            groups: user.groups,
            models: user.models,
            backends: user.backends,
            tools: user.tools,
            created,
            disabled,
            invited_until,
            logins,
        }
    }
}
