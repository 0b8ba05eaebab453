//! What lies between an index on the drive and the drive itself, and with how much memory it is served.
//!
//! In: what a plan asks for. Out: [`Placement`]s, each of which opens an index in one way; figures of two placements
//! never share a line of a chart.

use std::str::FromStr;

use kiln_builder::{DriveReads, IoEngine, OpenParams, Residency};
use serde::{Deserialize, Serialize};

use crate::units::parse_bytes;

/// What a page read from the drive passes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum IoState {
    /// Nothing: O_DIRECT. Every page comes from the drive.
    Direct,
    /// The page cache, from which the index file is dropped before each pass.
    Cold,
    /// The page cache, as earlier passes have left it.
    Warm,
    /// The page cache of a control group that may hold so little that it cannot keep the file.
    Capped {
        /// Bytes that the group may hold, page cache included.
        bytes: u64,
    },
}

impl IoState {
    /// `direct`, `cold`, `warm`, `capped:268435456`.
    pub fn name(self) -> String {
        match self {
            IoState::Direct => "direct".into(),
            IoState::Cold => "cold".into(),
            IoState::Warm => "warm".into(),
            IoState::Capped { bytes } => format!("capped:{bytes}"),
        }
    }

    /// How pages are read in this state.
    pub fn reads(self) -> DriveReads {
        match self {
            IoState::Direct => DriveReads::Direct,
            IoState::Cold | IoState::Warm | IoState::Capped { .. } => DriveReads::Cached,
        }
    }
}

impl FromStr for IoState {
    type Err = String;

    /// `direct`, `cold`, `warm`, `capped:256MiB`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "direct" => Ok(IoState::Direct),
            None if text == "cold" => Ok(IoState::Cold),
            None if text == "warm" => Ok(IoState::Warm),
            Some(("capped", size)) => Ok(IoState::Capped { bytes: parse_bytes(size)? }),
            _ => Err("use direct, cold, warm, or capped and a size, such as capped:256MiB".into()),
        }
    }
}

/// Where an index lies while it is searched, and what its searches may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Placement {
    /// Read into memory first.
    Memory,
    /// Left on the drive.
    Ssd {
        /// What its reads pass through.
        state: IoState,
        /// Bytes of memory that serving may use; `None`: whatever the layout does best with.
        memory: Option<u64>,
        /// What carries its reads.
        io: IoEngine,
    },
}

impl Placement {
    /// Every place that is asked for: memory, and on the drive every state with every memory. No state means direct, and
    /// no memory whatever the layout does best with.
    pub fn product(residencies: &[Residency], states: &[IoState], memories: &[u64]) -> Vec<Placement> {
        let states = if states.is_empty() { &[IoState::Direct][..] } else { states };
        let mut budgets: Vec<Option<u64>> = memories.iter().copied().map(Some).collect();
        if budgets.is_empty() {
            budgets.push(None);
        }
        let on_drive = || {
            let each = states.iter().flat_map(|&state| budgets.iter().map(move |&memory| (state, memory)));
            each.map(|(state, memory)| Placement::Ssd { state, memory, io: IoEngine::default() })
        };
        let mut placements = Vec::new();
        for &residency in residencies {
            match residency {
                Residency::Memory => placements.push(Placement::Memory),
                Residency::Ssd => placements.extend(on_drive()),
            }
        }
        placements
    }

    /// `memory` or `ssd`.
    pub fn residency(&self) -> Residency {
        match self {
            Placement::Memory => Residency::Memory,
            Placement::Ssd { .. } => Residency::Ssd,
        }
    }

    /// The state of its reads; `None` in memory.
    pub fn state(&self) -> Option<IoState> {
        match *self {
            Placement::Memory => None,
            Placement::Ssd { state, .. } => Some(state),
        }
    }

    /// The memory that serving may use; `None` in memory, and where nothing was said.
    pub fn memory(&self) -> Option<u64> {
        match *self {
            Placement::Memory => None,
            Placement::Ssd { memory, .. } => memory,
        }
    }

    /// How the builder opens it.
    pub fn open_params(&self) -> OpenParams {
        match *self {
            Placement::Memory => Residency::Memory.into(),
            Placement::Ssd { state, memory, io } => {
                OpenParams { reads: state.reads(), io, memory, ..Residency::Ssd.into() }
            }
        }
    }

    /// All that determines a measurement, in words that stay the same: part of a setting's key.
    pub(crate) fn key(&self) -> String {
        match *self {
            Placement::Memory => "memory".into(),
            Placement::Ssd { state, memory, io } => {
                let memory = memory.map_or("any".to_string(), |bytes| bytes.to_string());
                format!("ssd;io={};memory={memory};engine={io:?}", state.name())
            }
        }
    }

    /// In a few words, for messages: `ssd, cold, 268435456 bytes of memory`.
    pub(crate) fn words(&self) -> String {
        match *self {
            Placement::Memory => "memory".into(),
            Placement::Ssd { state, memory: None, .. } => format!("ssd, {}", state.name()),
            Placement::Ssd { state, memory: Some(bytes), .. } => {
                format!("ssd, {}, {bytes} bytes of memory", state.name())
            }
        }
    }
}

impl From<Residency> for Placement {
    /// As a residency is measured by default: from the drive, past the page cache.
    fn from(residency: Residency) -> Self {
        match residency {
            Residency::Memory => Placement::Memory,
            Residency::Ssd => Placement::Ssd { state: IoState::Direct, memory: None, io: IoEngine::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_stored_by_its_name() {
        let stored = |state: IoState| serde_json::to_string(&state).expect("serialises");
        assert_eq!(stored(IoState::Cold), r#"{"state":"cold"}"#);
        let capped = IoState::Capped { bytes: 5 };
        assert_eq!(stored(capped), r#"{"state":"capped","bytes":5}"#);
        assert_eq!(serde_json::from_str::<IoState>(&stored(capped)).expect("read back"), capped);
        assert!(serde_json::from_str::<IoState>(r#"{"state":"lukewarm"}"#).is_err());
    }

    #[test]
    fn every_part_of_a_placement_is_in_its_key() {
        let ssd = |state, memory, io| Placement::Ssd { state, memory, io }.key();
        let keys = [
            Placement::Memory.key(),
            ssd(IoState::Direct, None, IoEngine::Auto),
            ssd(IoState::Direct, None, IoEngine::Pread),
            ssd(IoState::Direct, Some(1), IoEngine::Auto),
            ssd(IoState::Cold, None, IoEngine::Auto),
            ssd(IoState::Warm, None, IoEngine::Auto),
            ssd(IoState::Capped { bytes: 1 }, None, IoEngine::Auto),
            ssd(IoState::Capped { bytes: 2 }, None, IoEngine::Auto),
        ];
        let unique: std::collections::BTreeSet<&String> = keys.iter().collect();
        assert_eq!(unique.len(), keys.len(), "{keys:?}");
    }

    #[test]
    fn states_are_read_as_people_write_them() {
        assert_eq!("cold".parse(), Ok(IoState::Cold));
        assert_eq!("capped:256MiB".parse(), Ok(IoState::Capped { bytes: 256 << 20 }));
        for wrong in ["", "hot", "capped", "direct:1", "capped:"] {
            assert!(wrong.parse::<IoState>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn states_and_memories_multiply_on_the_drive_alone() {
        let both = [Residency::Memory, Residency::Ssd];
        let all = Placement::product(&both, &[IoState::Direct, IoState::Cold], &[1, 2, 3]);
        assert_eq!((all.len(), all[0]), (7, Placement::Memory));
        assert_eq!(Placement::product(&[Residency::Ssd], &[], &[]), [Placement::from(Residency::Ssd)]);
    }

    #[test]
    fn only_direct_passes_the_page_cache_by() {
        assert_eq!(Placement::from(Residency::Ssd).open_params().reads, DriveReads::Direct);
        for state in [IoState::Cold, IoState::Warm, IoState::Capped { bytes: 1 }] {
            assert_eq!(state.reads(), DriveReads::Cached);
        }
        assert_eq!(Placement::Memory.open_params(), Residency::Memory.into());
    }
}
