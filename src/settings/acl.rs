//! Lists of networks from which clients are accepted.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fault::Faults;

/// Whose connections (`auth.acl`) or requests (`security.acl`) are accepted; nothing of others is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AclConfig {
    /// Networks or addresses; if the list is empty, all.
    pub allow: Vec<String>,
    /// Networks or addresses, also of those above.
    pub deny: Vec<String>,
}

/// The compiled lists of an [`AclConfig`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl AclConfig {
    /// Returns whether everyone is accepted.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Compiles the lists of the section `path`. Reports every fault; `None` after any.
    pub fn compile(self, path: &str, faults: &mut Faults) -> Option<Acl> {
        let mut list = |key: &str, texts: &[String]| {
            let texts = texts.iter().enumerate();
            let found: Vec<Option<IpNet>> =
                texts.map(|(at, text)| network(text, &format!("{path}.{key}[{at}]"), faults)).collect();
            found.into_iter().collect::<Option<Vec<IpNet>>>()
        };
        let (allow, deny) = (list("allow", &self.allow), list("deny", &self.deny));
        Some(Acl { allow: allow?, deny: deny? })
    }
}

impl Acl {
    /// Returns whether a client with this address is accepted.
    pub fn admits(&self, address: IpAddr) -> bool {
        let is_in = |list: &[IpNet]| {
            let address = address.to_canonical();
            list.iter().any(|network| network.contains(&address))
        };
        !is_in(&self.deny) && (self.allow.is_empty() || is_in(&self.allow))
    }
}

/// Returns a network; an address is a network of one. Reports what is none.
pub fn network(text: &str, path: &str, faults: &mut Faults) -> Option<IpNet> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok();
    if network.is_none() {
        let hint = "write a network such as 10.0.0.0/8 or 2001:db8::/32, or an address";
        faults.add(path, format!("'{text}' is neither network nor address"), hint);
    }
    network
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_is_denied_also_among_the_allowed() {
        let acl = |allow: &[&str], deny: &[&str]| {
            let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
            let written = AclConfig { allow: texts(allow), deny: texts(deny) };
            written.compile("auth.acl", &mut Faults::default())
        };
        let admits = |acl: &Acl, address: &str| acl.admits(address.parse().unwrap());
        let both = acl(&["10.0.0.0/8", "::1"], &["10.2.0.0/16"]).unwrap();
        assert!(admits(&both, "10.1.0.1") && admits(&both, "::1") && admits(&both, "::ffff:10.1.0.1"));
        assert!(
            !admits(&both, "10.2.0.1") && !admits(&both, "::ffff:10.2.0.1") && !admits(&both, "11.0.0.1")
        );
        let only_deny = acl(&[], &["10.2.0.0/16"]).unwrap();
        assert!(admits(&only_deny, "11.0.0.1") && !admits(&only_deny, "10.2.9.9"));
        assert!(admits(&Acl::default(), "11.0.0.1") && acl(&["x"], &[]).is_none());
    }
}
