//! A VLAN of the service link: which tags its frames have, and what its interface is called.

use std::fmt;

/// The tags of a VLAN: one (IEEE 802.1Q), or an outer and an inner one (IEEE 802.1ad, "QinQ").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Vlan {
    outer: u16,
    inner: Option<u16>,
}

impl Vlan {
    /// The least and the most that an identifier can be; 0 and 4095 are reserved.
    pub const IDENTIFIERS: (u16, u16) = (1, 4094);

    /// The VLAN of these identifiers, the outermost first; `None` if one is not in [`Self::IDENTIFIERS`].
    #[must_use]
    pub fn new(outer: u16, inner: Option<u16>) -> Option<Self> {
        let (least, most) = Self::IDENTIFIERS;
        let fits = |id: u16| (least..=most).contains(&id);
        (fits(outer) && inner.is_none_or(fits)).then_some(Self { outer, inner })
    }

    /// The identifier of the only tag, or of the outer one.
    #[must_use]
    pub fn outer(self) -> u16 {
        self.outer
    }

    /// The identifier of the inner tag, if there are two.
    #[must_use]
    pub fn inner(self) -> Option<u16> {
        self.inner
    }

    /// What its interface is called by custom, above an interface of that name: `eth0.100`, `eth0.200.100`.
    #[must_use]
    pub fn interface_name(self, below: &str) -> String {
        format!("{below}.{self}")
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.inner {
            Some(inner) => write!(f, "{}.{inner}", self.outer),
            None => write!(f, "{}", self.outer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_that_are_reserved_name_no_vlan() {
        assert_eq!(Vlan::new(0, None), None);
        assert_eq!(Vlan::new(4095, None), None);
        assert_eq!(Vlan::new(200, Some(0)), None);
        assert!(Vlan::new(1, Some(4094)).is_some());
    }

    #[test]
    fn interfaces_are_called_after_their_tags() {
        let name = |outer, inner| Vlan::new(outer, inner).map(|vlan| vlan.interface_name("eth0"));
        assert_eq!(name(100, None).as_deref(), Some("eth0.100"));
        assert_eq!(name(200, Some(100)).as_deref(), Some("eth0.200.100"));
    }
}
