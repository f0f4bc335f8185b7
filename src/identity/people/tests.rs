//! Accounts and log-ins: what is in force, on one instance and on several.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::accounts::Entrance;
use super::settings::Registration;
use super::user::UserConfig;
use super::{People, PeopleError, PeopleSettings, PeopleStorage};
use crate::identity::KeyFault;
use crate::identity::key_text;
use crate::identity::roles::{Reach, Role, Roles};
use crate::ids::SharedDocument;
use crate::settings::secret::Secret;

/// Keeps documents in memory; fails while told so.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<(BTreeMap<String, String>, bool)>>);

impl PeopleStorage for Memory {
    fn all(&self) -> Result<Vec<String>, String> {
        Ok(self.0.lock().0.values().cloned().collect())
    }

    fn put(&self, document: &SharedDocument) -> Result<(), String> {
        let mut held = self.0.lock();
        if held.1 {
            return Err("the disk is full".to_owned());
        }
        held.0.insert(document.id.clone(), document.text.clone());
        Ok(())
    }

    fn remove(&self, ids: &[String]) -> Result<(), String> {
        ids.iter().for_each(|id| drop(self.0.lock().0.remove(id)));
        Ok(())
    }

    fn secret(&self) -> Result<Secret, String> {
        Ok(Secret::new("a-secret-of-thirty-two-bytes-or-more"))
    }
}

impl Memory {
    fn people(&self, registration: Registration) -> People {
        let people = People::new(Box::new(self.clone()));
        let settings =
            PeopleSettings { login: true, registration, secret: None, ttl: Duration::from_secs(60) };
        people.configure(settings, "elida_", vec!["main".to_owned()]);
        people
    }
}

fn user(name: &str) -> UserConfig {
    UserConfig { name: name.to_owned(), ..UserConfig::default() }
}

/// Passwords are not hashed here: what the log-in holds against each other is this text.
fn make(people: &People, name: &str) {
    people.create(user(name), Entrance::Password(format!("hash of {name}")), &Reach::All).unwrap();
}

fn log_in(people: &People, name: &str) -> super::sessions::Tokens {
    people.log_in(&people.challenge(name)).expect("tokens")
}

fn who(people: &People, token: &Secret) -> Result<String, KeyFault> {
    people
        .find(token.reveal().as_bytes())
        .expect("a token of people")
        .map(|person| person.principal().to_string())
}

fn learn(to: &People, from: &People) {
    let texts: Vec<String> = from.documents().into_iter().map(|document| document.text).collect();
    to.learn(&texts);
}

#[test]
fn a_person_logs_in_and_a_restart_ends_nothing() {
    let memory = Memory::default();
    let people = memory.people(Registration::Closed);
    make(&people, "Ada");
    assert_eq!(people.challenge(" ADA ").hash.as_deref(), Some("hash of Ada"), "capitals do not matter");
    let tokens = log_in(&people, "ada");
    assert_eq!(who(&people, &tokens.access).unwrap(), "user:ada@elida");
    let again = memory.people(Registration::Closed);
    assert_eq!(who(&again, &tokens.access).unwrap(), "user:ada@elida");
    let held = format!("{:?}", memory.0.lock().0);
    for text in [&tokens.access, &tokens.refresh] {
        assert!(!held.contains(text.reveal()), "{held}");
    }
    assert!(again.find(b"elida_key").is_none() && again.find(tokens.refresh.reveal().as_bytes()).is_none());
    assert!(matches!(people.log_in(&people.challenge("bob")), Err(PeopleError::Wrong)));
}

#[test]
fn a_refresh_token_is_used_once_and_a_second_use_ends_its_log_in() {
    let people = Memory::default().people(Registration::Closed);
    make(&people, "ada");
    let (first, other) = (log_in(&people, "ada"), log_in(&people, "ada"));
    let second = people.refresh(&first.refresh).expect("tokens");
    assert!(who(&people, &first.access).is_ok() && who(&people, &second.access).is_ok());
    let opened = people.find(second.access.reveal().as_bytes()).unwrap().unwrap();
    let (fault, changed) = people.refresh(&first.refresh).err().expect("it was used");
    assert_eq!((fault, changed.len()), (PeopleError::Refresh, 1));
    assert!(opened.holder.validity().is_revoked(), "what it has opened ends");
    for token in [&first.access, &second.access] {
        assert_eq!(who(&people, token), Err(KeyFault::Revoked));
    }
    let (fault, changed) = people.refresh(&second.refresh).err().expect("the family has ended");
    assert_eq!((fault, changed.len()), (PeopleError::Refresh, 0));
    assert!(who(&people, &other.access).is_ok(), "another log-in goes on");
    for junk in ["", "elida_", "elida_x", other.access.reveal(), &other.refresh.reveal()[..40]] {
        assert!(people.refresh(&Secret::new(junk)).is_err(), "{junk}");
    }
    assert!(people.log_out(Some(&other.refresh), None).unwrap().is_some());
    assert_eq!(who(&people, &other.access), Err(KeyFault::Revoked));
    assert!(people.log_out(Some(&other.refresh), None).unwrap().is_none());
}

#[test]
fn who_knows_the_name_of_a_log_in_cannot_end_it() {
    let people = Memory::default().people(Registration::Closed);
    make(&people, "ada");
    let tokens = log_in(&people, "ada");
    let person = people.find(tokens.access.reveal().as_bytes()).unwrap().unwrap();
    assert!(!tokens.refresh.reveal().contains(&person.login[..8]));
    let own = &tokens.refresh.reveal()["elida_".len()..][..21];
    for (common, is_ended) in [(&person.login[..21], false), (own, true)] {
        let forged = key_text::with_checksum(format!("elida_{common}{}", "A".repeat(22)));
        assert!(people.refresh(&forged).is_err() && people.log_out(Some(&forged), None).unwrap().is_none());
        assert_eq!(who(&people, &tokens.access).is_err(), is_ended, "{common}");
    }
}

#[test]
fn what_an_admin_changes_ends_what_was_open() {
    let people = Memory::default().people(Registration::Closed);
    make(&people, "ada");
    let tokens = log_in(&people, "ada");
    let open = || people.find(tokens.access.reveal().as_bytes()).unwrap().unwrap();
    let before = open();
    let (listed, _) = people.set_role(&user("ada"), Some(Role::Auditor)).unwrap();
    assert_eq!((listed.user.role, listed.logins), (Some(Role::Auditor), 1));
    assert!(before.holder.validity().is_revoked() && !open().holder.validity().is_revoked());
    let before = open();
    assert_eq!(people.disable(&user("ada")).unwrap().0.logins, 0);
    assert!(before.holder.validity().is_revoked() && people.challenge("ada").hash.is_none());
    assert_eq!(who(&people, &tokens.access), Err(KeyFault::Revoked));
    people.enable(&user("ada")).unwrap();
    assert_eq!(who(&people, &tokens.access), Err(KeyFault::Revoked), "the person has to log in again");
    let tokens = log_in(&people, "ada");
    people.set_password(&user("ada"), "another".to_owned()).unwrap();
    assert!(who(&people, &tokens.access).is_err() && people.refresh(&tokens.refresh).is_err());
    assert!(matches!(people.disable(&user("bob")), Err(PeopleError::Unknown(_))));
}

#[test]
fn a_password_that_was_reset_meanwhile_is_not_changed_by_who_knew_the_old_one() {
    let people = Memory::default().people(Registration::Closed);
    make(&people, "ada");
    let (proven, tokens) = (people.challenge("ada"), log_in(&people, "ada"));
    people.set_password(&user("ada"), "of the admin".to_owned()).unwrap();
    let changed = people.change_password(&proven, "of the attacker".to_owned());
    assert!(matches!(changed, Err(PeopleError::Wrong)));
    assert_eq!(people.challenge("ada").hash.as_deref(), Some("of the admin"));
    assert!(who(&people, &tokens.access).is_err());
    let proven = people.challenge("ada");
    people.disable(&user("ada")).unwrap();
    assert!(people.change_password(&proven, "x".to_owned()).is_err());
    people.enable(&user("ada")).unwrap();
    people.change_password(&proven, "own".to_owned()).unwrap();
    assert_eq!(people.challenge("ada").hash.as_deref(), Some("own"));
}

#[test]
fn an_account_is_changed_only_while_it_is_what_the_admin_has_seen() {
    let people = Memory::default().people(Registration::Invite);
    let of = |tenant: &str| UserConfig { tenant: Some(tenant.to_owned()), ..user("ada") };
    let invite = |tenant: &str| {
        people.create(of(tenant), Entrance::Invitation(Duration::from_secs(60)), &Reach::All).map(drop)
    };
    invite("acme").unwrap();
    invite("other").unwrap();
    let is_unknown = |done: Result<(super::user::ListedUser, SharedDocument), PeopleError>| {
        matches!(done, Err(PeopleError::Unknown(_)))
    };
    assert!(is_unknown(people.set_password(&of("acme"), "x".to_owned())));
    assert!(is_unknown(people.set_role(&of("acme"), None)));
    assert!(is_unknown(people.disable(&of("acme"))) && is_unknown(people.enable(&of("acme"))));
    assert!(people.set_password(&of("other"), "x".to_owned()).is_ok());
}

#[test]
fn instances_agree_and_a_disabled_account_wins() {
    let [one, two] = [(); 2].map(|()| Memory::default().people(Registration::Closed));
    make(&one, "ada");
    let tokens = log_in(&one, "ada");
    learn(&two, &one);
    assert_eq!(who(&two, &tokens.access).unwrap(), "user:ada@elida");
    let opened = two.find(tokens.access.reveal().as_bytes()).unwrap().unwrap();
    one.disable(&user("ada")).unwrap();
    for role in [Role::Viewer, Role::Operator, Role::Admin] {
        two.set_role(&user("ada"), Some(role)).unwrap();
    }
    learn(&one, &two);
    learn(&two, &one);
    assert!(two.account("ada").unwrap().disabled.is_some() && opened.holder.validity().is_revoked());
    assert_eq!(one.documents(), two.documents());
    let newer = one.enable(&user("ada")).unwrap().1;
    assert_eq!(two.learn(&[newer.text]).len(), 1);
    assert!(two.account("ada").unwrap().disabled.is_none());
    // A refresh on one, the end on the other: the end counts, whatever the order.
    let tokens = log_in(&one, "ada");
    learn(&two, &one);
    one.refresh(&tokens.refresh).expect("tokens");
    two.log_out(Some(&tokens.refresh), None).unwrap();
    learn(&one, &two);
    assert_eq!(who(&one, &tokens.access), Err(KeyFault::Revoked));
    assert!(two.learn(&["{}".to_owned(), "junk".to_owned()]).is_empty());
}

#[test]
fn instances_agree_and_a_password_that_was_reset_wins() {
    let [one, two] = [(); 2].map(|()| Memory::default().people(Registration::Closed));
    make(&one, "ada");
    let tokens = log_in(&one, "ada");
    learn(&two, &one);
    one.set_password(&user("ada"), "of the admin".to_owned()).unwrap();
    for role in [Role::Viewer, Role::Operator, Role::Viewer] {
        two.set_role(&user("ada"), Some(role)).unwrap();
    }
    learn(&one, &two);
    learn(&two, &one);
    assert_eq!(one.documents(), two.documents());
    for people in [&one, &two] {
        assert_eq!(people.challenge("ada").hash.as_deref(), Some("of the admin"));
        assert_eq!(who(people, &tokens.access), Err(KeyFault::Revoked));
    }
    // The end of the account wins over passwords.
    one.disable(&user("ada")).unwrap();
    two.set_password(&user("ada"), "x".to_owned()).unwrap();
    two.set_password(&user("ada"), "y".to_owned()).unwrap();
    learn(&one, &two);
    learn(&two, &one);
    assert!(two.account("ada").unwrap().disabled.is_some());
}

#[test]
fn no_number_of_passwords_looks_like_the_end_of_an_account_or_its_return() {
    use super::user::{DISABLED, with_new_epoch};
    for first in [1_u64, 1 << 32, DISABLED | 3, (7 << 32) | DISABLED] {
        let mut revision = first;
        for _ in 0..40_000 {
            let next = with_new_epoch(revision);
            assert!(next > revision && (next ^ first) & !(DISABLED - 1) == 0, "{first:x} {revision:x}");
            revision = next;
        }
    }
}

#[test]
fn an_account_takes_an_invitation_unless_everyone_may_register() {
    let register = |people: &People, text: Option<&Secret>, name: &str| {
        people.register(text, name, "hash".to_owned(), &Roles::default())
    };
    let closed = Memory::default().people(Registration::Closed);
    assert!(matches!(register(&closed, None, "eve"), Err(PeopleError::Closed(_))));
    let people = Memory::default().people(Registration::Invite);
    assert!(matches!(register(&people, None, "eve"), Err(PeopleError::Closed(_))));
    let invited = UserConfig { role: Some(Role::Viewer), ..user("ada") };
    let (listed, text, _) =
        people.create(invited.clone(), Entrance::Invitation(Duration::from_secs(60)), &Reach::All).unwrap();
    let text = text.unwrap();
    assert!(listed.invited_until.is_some() && people.challenge("ada").hash.is_none());
    assert_eq!(people.invited(&text).as_deref(), Some("ada"));
    // The admin sends another one: the first is of no use.
    let (_, newer, _) =
        people.create(invited, Entrance::Invitation(Duration::from_secs(60)), &Reach::All).unwrap();
    assert!(register(&people, Some(&text), "").is_err());
    let newer = newer.unwrap();
    assert!(register(&people, Some(&newer), "").is_ok());
    assert!(matches!(register(&people, Some(&newer), ""), Err(PeopleError::Closed(_))), "used once");
    assert_eq!(people.account("ada").unwrap().user.role, Some(Role::Viewer));
    let (_, old, _) = people.create(user("old"), Entrance::Invitation(Duration::ZERO), &Reach::All).unwrap();
    assert!(register(&people, old.as_ref(), "").is_err());
    let open = Memory::default().people(Registration::Open);
    register(&open, None, "Eve").unwrap();
    assert_eq!(open.account("eve").unwrap().user, user("eve"), "no role, no tenant");
    assert!(matches!(register(&open, None, "eve"), Err(PeopleError::Exists(_))));
}

#[test]
fn faults_name_the_member_and_what_cannot_be_stored_changes_nothing() {
    let memory = Memory::default();
    let people = memory.people(Registration::Closed);
    let fault = |user| {
        people.create(user, Entrance::Password(String::new()), &Reach::All).expect_err("a fault").to_string()
    };
    assert!(fault(user("a b")).contains("name: 'a b' is not a name"));
    let other = UserConfig { backends: vec!["else".to_owned()], ..user("ada") };
    assert!(fault(other).contains("no backend has the name 'else'"));
    make(&people, "ada");
    assert!(fault(user("ada")).contains("'ada'"));
    let tokens = log_in(&people, "ada");
    memory.0.lock().1 = true;
    assert!(matches!(people.disable(&user("ada")), Err(PeopleError::Storage(_))));
    assert!(matches!(people.log_out(Some(&tokens.refresh), None), Err(PeopleError::Storage(_))));
    assert!(people.refresh(&tokens.refresh).is_err());
    assert!(who(&people, &tokens.access).is_ok());
}

#[test]
fn strangers_leave_room_for_the_accounts_of_admins() {
    let people = Memory::default().people(Registration::Open);
    (0..9_000).for_each(|number| make(&people, &number.to_string()));
    let registered = people.register(None, "eve", "hash".to_owned(), &Roles::default());
    assert!(matches!(registered, Err(PeopleError::Closed(_))));
    make(&people, "ada");
}

#[test]
fn another_secret_ends_what_the_tokens_of_the_old_one_have_opened() {
    let people = Memory::default().people(Registration::Closed);
    make(&people, "ada");
    let tokens = log_in(&people, "ada");
    let opened = people.find(tokens.access.reveal().as_bytes()).unwrap().unwrap();
    let configure = |secret: Option<&str>| {
        let (secret, ttl) = (secret.map(Secret::new), Duration::from_secs(60));
        let registration = Registration::Closed;
        people.configure(PeopleSettings { login: true, registration, secret, ttl }, "elida_", Vec::new());
    };
    configure(None);
    assert!(!opened.holder.validity().is_revoked(), "the same secret");
    configure(Some("another-secret-of-thirty-two-bytes"));
    assert!(opened.holder.validity().is_revoked() && who(&people, &tokens.access).is_err());
}

#[test]
fn an_invitation_of_a_tenant_is_replaced_by_nobody_else() {
    let people = Memory::default().people(Registration::Open);
    let create = |tenant: Option<&str>, reach: &Reach| {
        let user = UserConfig { tenant: tenant.map(str::to_owned), ..user("ada") };
        people.create(user, Entrance::Invitation(Duration::from_secs(60)), reach).map(drop)
    };
    let [acme, other] = ["acme", "other"].map(|tenant| Reach::Tenants(vec![tenant.into()]));
    create(Some("acme"), &acme).unwrap();
    assert!(matches!(create(Some("other"), &other), Err(PeopleError::Exists(_))));
    assert!(matches!(
        people.register(None, "ada", "hash".to_owned(), &Roles::default()),
        Err(PeopleError::Exists(_))
    ));
    create(Some("acme"), &acme).unwrap();
    create(None, &Reach::All).unwrap();
}

#[test]
fn who_logs_in_all_day_leaves_a_bounded_number_of_documents() {
    let memory = Memory::default();
    let people = memory.people(Registration::Closed);
    make(&people, "ada");
    make(&people, "bob");
    for _ in 0..256 {
        let tokens = log_in(&people, "ada");
        people.log_out(Some(&tokens.refresh), None).unwrap();
    }
    let refused = people.log_in(&people.challenge("ada")).err().expect("too many");
    assert!(matches!(refused, PeopleError::Full(wait) if wait > 86_000), "{refused}");
    let known = |people: &People| people.documents().len();
    assert_eq!((known(&people), memory.0.lock().0.len()), (258, 258));
    log_in(&people, "bob");
    // What is over makes room.
    let (again, mut expired) = (memory.people(Registration::Closed), 0);
    assert!(again.log_in(&again.challenge("ada")).is_err(), "also after a restart");
    for login in again.tables().logins.values_mut().filter(|login| login.document.user == "ada") {
        login.document.expires = jiff::Timestamp::UNIX_EPOCH;
        expired += 1;
    }
    again.sweep().unwrap();
    assert!(expired == 256 && again.log_in(&again.challenge("ada")).is_ok());
    assert_eq!(again.account("ada").unwrap().logins, 1);
}

#[test]
fn log_ins_of_an_account_are_bounded_and_those_that_are_over_are_forgotten() {
    let memory = Memory::default();
    let people = memory.people(Registration::Closed);
    make(&people, "ada");
    let first = log_in(&people, "ada");
    for _ in 0..32 {
        log_in(&people, "ada");
    }
    assert!(who(&people, &first.access).is_err() && people.account("ada").unwrap().logins == 32);
    let over = people.documents().into_iter().find(|document| document.id.starts_with("login:")).unwrap();
    let mut text: serde_json::Value = serde_json::from_str(&over.text).unwrap();
    text["expires"] = "2020-01-01T00:00:00Z".into();
    assert!(People::is_over(&text.to_string()) && !People::is_over(&over.text));
    assert!(people.learn(&[text.to_string()]).is_empty());
    people.sweep().unwrap();
    assert_eq!(memory.0.lock().0.len(), 34);
}
