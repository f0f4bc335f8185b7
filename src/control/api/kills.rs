//! Killing a session or an agent, lifting a kill, and the kill orders in force.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::session::{Block, BlockMode, KillOrder, Killed};
use crate::settings::units::DurationText;

/// Body of a kill; every member is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KillBody {
    /// Why, at most 1024 bytes; the client sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long the session id stays refused; `session.kill_block` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockBody>,
    /// What the order covers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<KillScope>,
    /// Blocks the id although the session has ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Kills only this agent of the session and all agents below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

/// How long a killed id stays refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "KillBlock")]
pub struct BlockBody {
    /// What ends the block.
    pub mode: BlockMode,
    /// With mode `duration`: for how long; 24 h when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<DurationText>,
}

impl Default for BlockBody {
    fn default() -> Self {
        Self { mode: Block::default().mode, duration: None }
    }
}

impl From<BlockBody> for Block {
    fn from(BlockBody { mode, duration }: BlockBody) -> Self {
        Self { mode, duration: duration.unwrap_or(Self::default().duration) }
    }
}

/// What a kill order covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KillScope {
    /// One session.
    Session,
}

/// Body of a resume; its member is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResumeBody {
    /// Lifts the order against this agent, not the one against the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

/// Answer to a kill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KillReply {
    /// What the kill did.
    #[serde(flatten)]
    pub killed: Killed,
    /// Why, as the client sees it.
    pub reason: String,
}

/// Answer of `GET /control/kills`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KillList {
    /// The kill orders in force, newest first.
    pub kills: Vec<Arc<KillOrder>>,
}
