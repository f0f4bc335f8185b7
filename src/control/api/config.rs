//! The configuration in force and its reload.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answer of `POST /control/config/reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadReply {
    /// Always true; an invalid configuration is answered with `config_invalid`.
    pub applied: bool,
    /// Keys whose new values take effect only after a restart.
    pub restart_required: Vec<String>,
}
