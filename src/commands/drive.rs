//! How `kiln bench` measures indexes on the drive: what their reads pass through, and with how much memory.

use kiln_builder::Residency;
use kiln_eval::{IoState, Placement};

use super::residency::ResidencyArg;
use super::{UsageError, parse_bytes};

#[derive(clap::Args)]
pub struct DriveArgs {
    /// On SSD, what reads pass through; each is measured: direct, cold, warm, capped:SIZE [default: direct]
    #[arg(long, value_name = "S,S,..", value_delimiter = ',', value_parser = parse_io_state)]
    io_state: Vec<IoState>,
    /// On SSD, the memory that serving may use; each is measured [default: what the layout does best with]
    #[arg(long, value_name = "SIZE,SIZE,..", value_delimiter = ',', value_parser = parse_bytes)]
    memory: Vec<u64>,
}

impl DriveArgs {
    /// Every place that is asked for: memory, and every state with every memory on the drive.
    pub fn placements(&self, residencies: &[ResidencyArg]) -> Result<Vec<Placement>, UsageError> {
        let on_drive = residencies.iter().any(|&arg| Residency::from(arg) == Residency::Ssd);
        for (flag, given) in [("--io-state", !self.io_state.is_empty()), ("--memory", !self.memory.is_empty())] {
            if given && !on_drive {
                return Err(UsageError(format!("{flag} is for indexes on the drive; add --residency ssd")));
            }
        }
        let states = if self.io_state.is_empty() { vec![IoState::Direct] } else { self.io_state.clone() };
        let mut budgets: Vec<Option<u64>> = self.memory.iter().copied().map(Some).collect();
        if budgets.is_empty() {
            budgets.push(None);
        }
        let mut placements = Vec::new();
        for &residency in residencies {
            match residency {
                ResidencyArg::Memory => placements.push(Placement::Memory),
                ResidencyArg::Ssd => {
                    let each = states.iter().flat_map(|&state| budgets.iter().map(move |&memory| (state, memory)));
                    placements.extend(each.map(|(state, memory)| Placement::Ssd {
                        state,
                        memory,
                        io: Default::default(),
                    }));
                }
            }
        }
        Ok(placements)
    }
}

/// `direct`, `cold`, `warm`, `capped:256MiB`.
fn parse_io_state(text: &str) -> Result<IoState, String> {
    match text.split_once(':') {
        None if text == "direct" => Ok(IoState::Direct),
        None if text == "cold" => Ok(IoState::Cold),
        None if text == "warm" => Ok(IoState::Warm),
        Some(("capped", size)) => Ok(IoState::Capped { bytes: parse_bytes(size)? }),
        _ => Err("use direct, cold, warm, or capped and a size, such as capped:256MiB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_as_people_write_them() {
        assert_eq!(parse_io_state("cold"), Ok(IoState::Cold));
        assert_eq!(parse_io_state("capped:256MiB"), Ok(IoState::Capped { bytes: 256 << 20 }));
        for wrong in ["", "hot", "capped", "direct:1", "capped:"] {
            assert!(parse_io_state(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn states_and_memories_multiply_on_the_drive_alone() {
        let args = DriveArgs { io_state: vec![IoState::Direct, IoState::Cold], memory: vec![1, 2, 3] };
        let both = args.placements(&[ResidencyArg::Memory, ResidencyArg::Ssd]).expect("fits");
        assert_eq!((both.len(), both[0]), (7, Placement::Memory));
        assert!(args.placements(&[ResidencyArg::Memory]).is_err_and(|why| why.0.contains("--io-state")));
        let plain = DriveArgs { io_state: vec![], memory: vec![] };
        assert_eq!(plain.placements(&[ResidencyArg::Ssd]).expect("fits"), [Placement::from(Residency::Ssd)]);
    }
}
