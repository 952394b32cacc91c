//! What an operator may choose about the runtime, and the names that follow from it.
//!
//! Everything the runtime leaves on the machine (a bridge, an nftables table, cgroups, veth links) carries a tag that
//! is a hash of the state folder. Two servers with different data folders on one machine therefore never touch each
//! other's things, and a restarted server recognises what its killed predecessor left.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Options of one runtime. `RuntimeConfig::new` is right for nearly everybody.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RuntimeConfig {
    /// Private folder of the runtime; it also identifies the runtime on this machine.
    pub state_dir: PathBuf,
    /// Where the operator writes what is chosen, for messages that say what to set.
    pub settings_file: PathBuf,
    /// Addresses for containers with `Network::Nat`; by default a /20 chosen from the state folder that overlaps
    /// with no route of this machine.
    pub subnet: Option<Subnet>,
    /// Name of the bridge (at most 15 bytes); by default `dor` and the tag.
    pub bridge: Option<String>,
    /// Name of the cgroup below which containers get theirs; by default `dorian-` and the tag.
    pub cgroup_parent: Option<String>,
    /// Whether containers get user namespaces of their own where the machine can do it. Without, root inside is root
    /// outside with fewer rights; only for machines or filesystems that get in the way.
    pub user_namespaces: bool,
    /// Name servers for containers; by default those of this machine.
    pub resolvers: Vec<IpAddr>,
    /// How many half-made containers (cgroup, namespaces, network link) wait ready. They cost about 0.15 MB each
    /// and save most of a container's creation time; 0 makes everything on demand.
    pub warm: usize,
}

/// A block of IPv4 addresses. The first usable one belongs to the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub base: Ipv4Addr,
    pub prefix: u8,
}

impl RuntimeConfig {
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            settings_file: "config.toml".into(),
            subnet: None,
            bridge: None,
            cgroup_parent: None,
            user_namespaces: true,
            resolvers: Vec::new(),
            warm: 4,
        }
    }

    /// Eight hexadecimal digits that stand for the state folder.
    pub fn tag(&self) -> String {
        format!("{:08x}", self.hash() as u32)
    }

    pub fn bridge_name(&self) -> String {
        self.bridge.clone().unwrap_or_else(|| format!("dor{}", self.tag()))
    }

    pub fn cgroup_name(&self) -> String {
        self.cgroup_parent.clone().unwrap_or_else(|| format!("dorian-{}", self.tag()))
    }

    pub fn nft_table(&self) -> String {
        format!("dorian_{}", self.tag())
    }

    /// Host-side link of the container in slot `slot`; 15 bytes are all that the kernel allows.
    pub fn veth_name(&self, slot: u32) -> String {
        format!("{}{slot:x}", self.veth_prefix())
    }

    pub fn veth_prefix(&self) -> String {
        format!("dv{}", self.tag())
    }

    /// Blocks to try, best first: /20s inside 10.64.0.0/10, which home and office networks seldom use.
    pub fn subnet_candidates(&self) -> impl Iterator<Item = Subnet> {
        let start = (self.hash() >> 32) as u32 % 1024;
        (0..1024u32).map(move |step| {
            let block = (start + step) % 1024;
            let base = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 0)) + (block << 12));
            Subnet { base, prefix: 20 }
        })
    }

    /// FNV-1a: stable across releases and machines, which `std`'s hasher does not promise.
    fn hash(&self) -> u64 {
        use std::os::unix::ffi::OsStrExt;
        let bytes = self.state_dir.as_os_str().as_bytes();
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
    }
}

impl Subnet {
    pub fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0)
    }

    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from((u32::from(self.base) & self.mask()) + 1)
    }

    /// Address of slot `slot`, or none when the block is used up (its last address is the broadcast address).
    pub fn address(self, slot: u32) -> Option<Ipv4Addr> {
        let size = (!self.mask()).checked_sub(2)?;
        (slot < size).then(|| Ipv4Addr::from(u32::from(self.gateway()) + 1 + slot))
    }

    pub fn overlaps(self, other: Subnet) -> bool {
        let mask = self.mask() & other.mask();
        u32::from(self.base) & mask == u32::from(other.base) & mask
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_state_folders_share_no_name() {
        let (a, b) = (RuntimeConfig::new("/var/a"), RuntimeConfig::new("/var/b"));
        assert_ne!(a.bridge_name(), b.bridge_name());
        assert_ne!(a.cgroup_name(), b.cgroup_name());
        assert_ne!(a.nft_table(), b.nft_table());
        assert_ne!(a.veth_prefix(), b.veth_prefix());
    }

    #[test]
    fn link_names_fit_the_kernel() {
        let config = RuntimeConfig::new("/var/lib/dorian");
        assert!(config.bridge_name().len() <= 15);
        assert!(config.veth_name(4093).len() <= 15);
    }

    #[test]
    fn a_subnet_gives_each_slot_its_own_address_until_it_is_used_up() {
        let subnet = Subnet { base: Ipv4Addr::new(10, 64, 16, 0), prefix: 20 };
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 64, 16, 1));
        assert_eq!(subnet.address(0), Some(Ipv4Addr::new(10, 64, 16, 2)));
        assert_eq!(subnet.address(4092), Some(Ipv4Addr::new(10, 64, 31, 254)));
        assert_eq!(subnet.address(4093), None);
    }

    #[test]
    fn overlap_is_seen_from_both_sides() {
        let wide = Subnet { base: Ipv4Addr::new(10, 0, 0, 0), prefix: 8 };
        let narrow = Subnet { base: Ipv4Addr::new(10, 64, 16, 0), prefix: 20 };
        let other = Subnet { base: Ipv4Addr::new(192, 168, 0, 0), prefix: 16 };
        assert!(wide.overlaps(narrow) && narrow.overlaps(wide));
        assert!(!wide.overlaps(other));
    }

    #[test]
    fn the_default_route_does_not_overlap_only_by_being_everything() {
        let everything = Subnet { base: Ipv4Addr::UNSPECIFIED, prefix: 0 };
        assert_eq!(everything.mask(), 0);
    }
}
