//! The endpoints of people who log in, and of their accounts.

use super::super::api::error::ErrorCode::*;
use super::super::api::people::{
    ChangedUser, InvitedUser, LoginBody, LogoutBody, LogoutReply, MadeUser, Me, NewUser, PasswordBody,
    RefreshBody, RegisterBody, RoleBody, TicketBody, TicketReply, TokenReply, UserList,
};
use super::super::openapi::Operation;
use super::endpoint::{Endpoint, on_get, on_post};
use super::{login, users};
use crate::identity::roles::Right;

/// The tag of these endpoints.
pub(super) const PEOPLE: &str = "people";

pub(super) fn login_endpoints() -> Vec<Endpoint> {
    let open = |id, summary| Operation::probe(PEOPLE, id, summary).audited();
    vec![
        on_post(
            "/auth/login",
            login::login,
            open("logIn", "Logs a person in by name and password")
                .also(&["/api/auth/login", "/api/v1/auth/login"])
                .body::<LoginBody>()
                .ok::<TokenReply>("An access token and a refresh token.")
                .errors(&[LoginFailed, LoginDisabled, TooManyAttempts, StateUnavailable, Internal]),
        ),
        on_post(
            "/auth/refresh",
            login::refresh,
            open(
                "refreshTokens",
                "Replaces a refresh token by new tokens; one that was used ends its log-in",
            )
            .also(&["/api/auth/refresh", "/api/v1/auth/refresh"])
            .body::<RefreshBody>()
            .ok::<TokenReply>("An access token and a refresh token.")
            .errors(&[LoginFailed, LoginDisabled, StateUnavailable, Internal]),
        ),
        on_post(
            "/auth/logout",
            login::logout,
            open("logOut", "Ends a log-in, its tokens and what they have opened")
                .also(&["/api/auth/logout", "/api/v1/auth/logout"])
                .body::<LogoutBody>()
                .ok::<LogoutReply>("The log-in has ended.")
                .errors(&[LoginDisabled, StateUnavailable, Internal]),
        ),
        on_post(
            "/auth/register",
            login::register,
            open("register", "Makes an account by an invitation, or without one if everyone may")
                .also(&["/api/auth/register", "/api/v1/auth/register"])
                .body::<RegisterBody>()
                .answer::<TokenReply>(201, "The account is made, and its holder logged in.")
                .errors(&[
                    LoginFailed,
                    RegistrationClosed,
                    LoginDisabled,
                    UserExists,
                    TooManyAttempts,
                    StateUnavailable,
                    Internal,
                ]),
        ),
    ]
}

pub(super) fn own_endpoints() -> Vec<Endpoint> {
    let operation = |id, summary| Operation::new(PEOPLE, id, summary, Right::Read).for_everyone();
    vec![
        on_get(
            "/auth/me",
            login::me,
            operation("getMe", "Returns the caller, whether it has a role or not")
                .also(&["/api/auth/me", "/api/v1/auth/me"])
                .ok::<Me>("The caller."),
        ),
        on_post(
            "/auth/password",
            login::change_password,
            operation(
                "changePassword",
                "Replaces the password of the caller, which ends all its other log-ins",
            )
            .also(&["/api/auth/password", "/api/v1/auth/password"])
            .body::<PasswordBody>()
            .ok::<TokenReply>("An access token and a refresh token of a new log-in.")
            .errors(&[LoginFailed, LoginDisabled, TooManyAttempts, StateUnavailable, Internal]),
        ),
        on_post(
            "/api/v1/auth/tickets",
            login::ticket,
            operation("makeTicket", "Makes a ticket for the URL of a stream: for 30 s, once, and one path")
                .needs(Right::Read)
                .by_tenant()
                .body::<TicketBody>()
                .ok::<TicketReply>("The ticket.")
                .errors(&[TooManyAttempts, Internal]),
        ),
    ]
}

pub(super) fn user_endpoints() -> Vec<Endpoint> {
    let operation = |id, summary| Operation::new(PEOPLE, id, summary, Right::Users).by_tenant();
    vec![
        on_get(
            "/api/admin/users",
            users::list,
            operation("listUsers", "Lists the accounts of people")
                .also(&["/control/users"])
                .ok::<UserList>("The accounts.")
                .errors(&[LoginDisabled]),
        ),
        on_post(
            "/api/admin/users",
            users::create,
            operation("createUser", "Makes an account with a password, and shows that this once")
                .also(&["/control/users"])
                .body::<NewUser>()
                .answer::<MadeUser>(201, "The account is in force.")
                .errors(&[UserExists, LoginDisabled, TooManyAttempts, StateUnavailable, Internal]),
        ),
        on_post(
            "/api/admin/users/invite",
            users::invite,
            operation("inviteUser", "Makes an account whose holder chooses the password by an invitation")
                .also(&["/control/users/invite"])
                .body::<NewUser>()
                .answer::<InvitedUser>(201, "The invitation, which is shown this once.")
                .errors(&[RegistrationClosed, UserExists, LoginDisabled, StateUnavailable, Internal]),
        ),
    ]
}

pub(super) fn change_endpoints() -> Vec<Endpoint> {
    let operation = |id, summary| {
        Operation::new(PEOPLE, id, summary, Right::Users).names("The name of an account.").by_tenant()
    };
    let changes = &[UserNotFound, LoginDisabled, StateUnavailable, Internal];
    vec![
        on_post(
            "/api/admin/users/{id}/role",
            users::set_role,
            operation("setRole", "Sets the role of a person, or takes it away")
                .also(&["/control/users/{id}/role"])
                .body::<RoleBody>()
                .ok::<ChangedUser>("The account has this role.")
                .errors(changes),
        ),
        on_post(
            "/api/admin/users/{id}/disable",
            users::disable,
            operation("disableUser", "Disables an account, and ends its tokens and what they have opened")
                .also(&["/control/users/{id}/disable"])
                .ok::<ChangedUser>("Nobody can log in with it.")
                .errors(changes),
        ),
        on_post(
            "/api/admin/users/{id}/enable",
            users::enable,
            operation("enableUser", "Enables an account again")
                .also(&["/control/users/{id}/enable"])
                .ok::<ChangedUser>("Its holder can log in.")
                .errors(changes),
        ),
        on_post(
            "/api/admin/users/{id}/reset-password",
            users::reset_password,
            operation(
                "resetPassword",
                "Replaces the password of an account, and shows the new one this once",
            )
            .also(&["/control/users/{id}/reset-password"])
            .ok::<MadeUser>("The old password and all log-ins have ended.")
            .errors(&[UserNotFound, LoginDisabled, TooManyAttempts, StateUnavailable, Internal]),
        ),
    ]
}
