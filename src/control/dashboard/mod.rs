//! The dashboard: a page of plain modules and one style sheet that calls the control API.
//!
//! Duty: [`assets`] are its files, built into the program; [`cookies`] are the log-ins of browsers, which cannot send
//! `Authorization` by themselves. Neighbours: `auth` finds the credential behind a cookie, `routes` log in and out and serve the
//! files. Invariants: the page can do nothing that the API does not permit its caller; no credential is in the page, in the
//! storage of the browser or in a URL.

pub(in crate::control) mod assets;
pub(in crate::control) mod cookies;
