//! Which addresses are ours, on kernels that cannot keep the mark themselves.
//!
//! Since Linux 5.18 the kernel keeps a mark at each address and this record stays empty, without a file. Before, the
//! addresses we added stand in a small file, so that a daemon that died leaves a trace of what may be taken away.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One address on one interface: interface index, address, prefix length.
pub(super) type AddressKey = (u32, IpAddr, u8);

/// The addresses we added and the kernel has no mark for.
#[derive(Debug)]
pub struct AddressRecord {
    file: PathBuf,
    boot: String,
    addresses: Mutex<BTreeSet<AddressKey>>,
}

impl AddressRecord {
    /// Reads the file `addresses` of the state directory. A file that is absent, from before the last boot, or not in
    /// our form counts as empty: an address too few costs an error message, one too many the administrator's address.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or when the kernel does not tell its boot id.
    pub fn open(state_directory: &Path) -> io::Result<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let file = state_directory.join("addresses");
        let addresses = match std::fs::read_to_string(&file) {
            Ok(text) => parse(&text, &boot).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, boot, addresses: Mutex::new(addresses) })
    }

    /// Whether the address stands in the record.
    pub(super) fn contains(&self, key: AddressKey) -> bool {
        self.addresses().contains(&key)
    }

    /// Enters an address in memory alone, until [`Self::save`]; whether it is new.
    pub(super) fn insert(&self, key: AddressKey) -> bool {
        self.addresses().insert(key)
    }

    /// Takes an address out in memory alone, until [`Self::save`]; whether it was there.
    pub(super) fn remove(&self, key: AddressKey) -> bool {
        self.addresses().remove(&key)
    }

    /// Writes the file anew. It is small and needs no `fsync`: a crash of the machine takes the addresses with it.
    pub(super) fn save(&self) -> io::Result<()> {
        let mut text = format!("{}\n", self.boot);
        for (ifindex, address, prefix) in self.addresses().iter() {
            text.push_str(&format!("{ifindex} {address} {prefix}\n"));
        }
        let new = self.file.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, &self.file)
    }

    fn addresses(&self) -> MutexGuard<'_, BTreeSet<AddressKey>> {
        // A set of numbers is whole whatever its last user was doing.
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(text: &str, boot: &str) -> Option<BTreeSet<AddressKey>> {
    let mut lines = text.lines();
    if lines.next()? != boot {
        return None;
    }
    lines
        .map(|line| {
            let mut words = line.split(' ');
            let (ifindex, address) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let longest = match address {
                IpAddr::V4(_) => 32,
                IpAddr::V6(_) => 128,
            };
            let prefix = words.next()?.parse().ok().filter(|prefix| *prefix <= longest)?;
            words.next().is_none().then_some((ifindex, address, prefix))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    const KEY: AddressKey = (7, IpAddr::V4(Ipv4Addr::new(10, 77, 0, 100)), 24);
    const KEY6: AddressKey = (7, IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100)), 64);

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("address-record-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_was_saved_is_there_after_a_restart() {
        let directory = Directory::new("restart");
        let record = AddressRecord::open(&directory.0).unwrap();
        assert!(!record.contains(KEY));
        assert!(record.insert(KEY) && record.insert(KEY6));
        record.save().unwrap();
        let restarted = AddressRecord::open(&directory.0).unwrap();
        assert!(restarted.contains(KEY) && restarted.contains(KEY6));
        assert!(record.remove(KEY));
        record.save().unwrap();
        let restarted = AddressRecord::open(&directory.0).unwrap();
        assert!(!restarted.contains(KEY) && restarted.contains(KEY6));
    }

    #[test]
    fn a_record_from_before_the_last_boot_is_void() {
        assert_eq!(parse("old\n7 10.77.0.100 24\n", "new"), None);
        assert_eq!(
            parse("new\n7 10.77.0.100 24\n7 fd77::100 64\n", "new"),
            Some(BTreeSet::from([KEY, KEY6]))
        );
    }

    #[test]
    fn a_line_that_is_not_ours_voids_the_record() {
        let lines = [
            "7 10.77.0.100",
            "7 10.77.0.100 33",
            "7 10.77.0.100 24 1",
            "x 10.77.0.100 24",
            "",
            "7 fd77::1 129",
        ];
        for line in lines {
            assert_eq!(parse(&format!("new\n7 10.77.0.1 24\n{line}\n"), "new"), None, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = parse(&text, "boot");
        }
    }
}
