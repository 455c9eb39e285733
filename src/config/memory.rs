//! The guest's memory: how much, and how the host keeps it.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{ConfigError, MAX_MEMORY, MIN_MEMORY, Size};

/// The guest's memory (`--memory`, `--mlock`, `--ksm`), 128 MiB by default.
///
/// In a file it is a size (`memory = "1G"`), or a table that has more to say
/// (`memory = { size = "1G", hugepages = "2M" }`). In a program:
///
/// ```
/// use motevm::config::{HugePages, Memory, Size};
///
/// let plain = Memory::from(Size::gib(1));
/// let huge = Memory { hugepages: Some(HugePages::Size2M), prefault: true, ..plain };
/// assert!(huge.thp && !huge.mlock);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// How much.
    pub size: Size,
    /// Pages of the host's pool of huge pages (hugetlb), which are set aside before the VM starts.
    pub hugepages: Option<HugePages>,
    /// Transparent huge pages, as the host finds them. Of no meaning with `hugepages`.
    pub thp: bool,
    /// All of it is there before the guest starts, instead of when it is first touched.
    pub prefault: bool,
    /// It stays in the host's memory: never swapped out.
    pub mlock: bool,
    /// The host may keep pages of the same content once, also those of several VMs (KSM).
    pub ksm: bool,
}

/// The size of the pages in the host's pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// 2 MiB.
    #[serde(rename = "2M")]
    Size2M,
    /// 1 GiB.
    #[serde(rename = "1G")]
    Size1G,
}

impl HugePages {
    /// The size of one.
    pub const fn size(self) -> Size {
        match self {
            HugePages::Size2M => Size::mib(2),
            HugePages::Size1G => Size::gib(1),
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory::from(Size::mib(128))
    }
}

impl From<Size> for Memory {
    fn from(size: Size) -> Self {
        Memory {
            size,
            hugepages: None,
            thp: true,
            prefault: false,
            mlock: false,
            ksm: false,
        }
    }
}

impl Memory {
    /// `shared`: whether another process maps it too; `balloon`: whether the guest gives some of it
    /// back, and whether also what is merely free.
    pub(super) fn validate(&self, shared: bool, balloon: Option<bool>) -> Result<(), ConfigError> {
        let size = self.size;
        if size < MIN_MEMORY {
            return Err(ConfigError::MemoryTooSmall(size));
        }
        if size > MAX_MEMORY {
            return Err(ConfigError::MemoryTooLarge(size));
        }
        if !size.bytes().is_multiple_of(1 << 20) {
            return Err(ConfigError::MemoryUnaligned(size));
        }
        if let Some(pages) = self.hugepages
            && !size.bytes().is_multiple_of(pages.size().bytes())
        {
            return Err(ConfigError::MemoryHugePages(size, pages.size()));
        }
        let excluded = [
            (
                self.hugepages.is_some() && !self.thp,
                "--memory hugepages= with thp=off",
                "thp is about memory that isn't of the host's pool; leave it out",
            ),
            (
                self.ksm && self.hugepages.is_some(),
                "--ksm with --memory hugepages=",
                "KSM merges small pages only; leave one of them out",
            ),
            (
                self.ksm && shared,
                "--ksm with a vhost-user device or --net user",
                "KSM merges no memory that processes share; leave one of them out",
            ),
            (
                balloon.is_some() && self.hugepages.is_some(),
                "--balloon with --memory hugepages=",
                "what the host has set aside isn't given back; leave one of them out",
            ),
            (
                balloon.is_some() && self.mlock,
                "--balloon with --mlock",
                "locked memory isn't given back; leave one of them out",
            ),
            (
                balloon == Some(true) && self.prefault,
                "--balloon with --memory prefault=on",
                "the guest would give its free memory back at once; add free-page-reporting=off \
                 to --balloon",
            ),
        ];
        match excluded.into_iter().find(|(given, ..)| *given) {
            Some((_, what, remedy)) => Err(ConfigError::MemoryExcludes(what, remedy)),
            None => Ok(()),
        }
    }
}

/// Everything that can be said, as a table has it.
#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Table {
    size: Size,
    #[serde(skip_serializing_if = "Option::is_none")]
    hugepages: Option<HugePages>,
    thp: bool,
    prefault: bool,
    mlock: bool,
    ksm: bool,
}

impl Default for Table {
    fn default() -> Self {
        Memory::default().into()
    }
}

impl From<Memory> for Table {
    fn from(memory: Memory) -> Self {
        Table {
            size: memory.size,
            hugepages: memory.hugepages,
            thp: memory.thp,
            prefault: memory.prefault,
            mlock: memory.mlock,
            ksm: memory.ksm,
        }
    }
}

impl From<Table> for Memory {
    fn from(table: Table) -> Self {
        Memory {
            size: table.size,
            hugepages: table.hugepages,
            thp: table.thp,
            prefault: table.prefault,
            mlock: table.mlock,
            ksm: table.ksm,
        }
    }
}

impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self == Memory::from(self.size) {
            return self.size.serialize(serializer);
        }
        Table::from(*self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Memory;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"128M\", or a table with a size in it")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Memory, E> {
                text.parse().map(Size::into).map_err(E::custom)
            }
            fn visit_u64<E>(self, bytes: u64) -> Result<Memory, E> {
                Ok(Size::new(bytes).into())
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Memory, E> {
                let bytes = u64::try_from(bytes).map_err(E::custom)?;
                self.visit_u64(bytes)
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Memory, A::Error> {
                Table::deserialize(MapAccessDeserializer::new(map)).map(Memory::from)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::super::VmConfig;
    use super::*;

    fn config(text: &str) -> VmConfig {
        let config: VmConfig = toml::from_str(text).unwrap();
        let printed = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<VmConfig>(&printed).unwrap(), config);
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<VmConfig>(&json).unwrap(), config);
        config
    }

    #[test]
    fn a_size_alone_or_a_table_say_it() {
        assert_eq!(config("memory = \"1G\"").memory, Size::gib(1).into());
        assert_eq!(config("memory = 1073741824").memory, Size::gib(1).into());
        let memory =
            config("memory = { size = \"2G\", hugepages = \"1G\", prefault = true, mlock = true }")
                .memory;
        let expected = Memory {
            hugepages: Some(HugePages::Size1G),
            prefault: true,
            mlock: true,
            ..Size::gib(2).into()
        };
        assert_eq!(memory, expected);
        let memory = config("[memory]\nthp = false").memory;
        assert!(!memory.thp && memory.size == Size::mib(128));
        for wrong in [
            "memory = \"lots\"",
            "memory = -1",
            "memory = { size = \"1G\", pages = 3 }",
            "memory = { hugepages = \"4M\" }",
        ] {
            assert!(toml::from_str::<VmConfig>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_excludes_each_other_is_refused_by_name() {
        for (memory, more, part) in [
            ("size = '1G', hugepages = '2M'", "", None),
            (
                "thp = false, prefault = true, mlock = true, ksm = true",
                "",
                None,
            ),
            (
                "size = '1025M', hugepages = '2M'",
                "",
                Some("--memory 1025M,hugepages=2M: "),
            ),
            (
                "size = '1536M', hugepages = '1G'",
                "",
                Some("a multiple of 1G"),
            ),
            ("hugepages = '2M', thp = false", "", Some("with thp=off")),
            ("hugepages = '2M', ksm = true", "", Some("--ksm with")),
            (
                "ksm = true",
                "[[disks]]\nvhost-user = 's'",
                Some("--ksm with a vhost-user"),
            ),
            ("hugepages = '2M'", "[[disks]]\nvhost-user = 's'", None),
            ("hugepages = '2M'", "[balloon]", Some("--balloon with")),
            ("mlock = true", "[balloon]", Some("--balloon with --mlock")),
            (
                "prefault = true",
                "[balloon]",
                Some("free-page-reporting=off"),
            ),
            (
                "prefault = true",
                "[balloon]\nfree-page-reporting = false",
                None,
            ),
            ("ksm = true", "[balloon]", None),
        ] {
            let text = format!("memory = {{ {memory} }}\nboot.kernel = 'k'\n{more}");
            match (config(&text).validate(), part) {
                (Ok(()), None) => {}
                (Err(error), Some(part)) => {
                    assert!(error.to_string().contains(part), "{text}: {error}")
                }
                (result, _) => panic!("{text}: {result:?}"),
            }
        }
    }
}
