//! Comma lists of what is allowed, where `*` and an empty list allow everything.
//!
//! Not known here: what the names stand for.

use std::collections::BTreeSet;

/// Of origins, or of hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowList(BTreeSet<String>);

impl AllowList {
    pub fn parse(given: &str) -> Self {
        let names = given.split(',').map(str::trim);
        let names = names.filter(|name| !name.is_empty());
        Self(names.map(str::to_owned).collect())
    }

    pub fn allows(&self, name: &str) -> bool {
        self.allows_all() || self.0.contains(name)
    }

    pub fn allows_all(&self) -> bool {
        self.0.is_empty() || self.0.contains("*")
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_whole() {
        let list = AllowList::parse("a, b:1");
        assert!(list.allows("a") && list.allows("b:1"));
        assert!(!list.allows("b") && !list.allows("") && !list.allows("*"));
        assert!(AllowList::parse("").allows("x"));
        assert!(AllowList::parse("a,*").allows("x"));
    }
}
