//! How `kiln bench` measures indexes on the drive: what their reads pass through, and with how much memory.

use std::str::FromStr;

use kiln_builder::Residency;
use kiln_eval::{IoState, Placement};

use super::residency::ResidencyArg;
use super::{UsageError, parse_bytes};

#[derive(clap::Args)]
pub struct DriveArgs {
    /// On SSD, what reads pass through; each is measured: direct, cold, warm, capped:SIZE [default: direct]
    #[arg(long, value_name = "S,S,..", value_delimiter = ',', value_parser = IoState::from_str)]
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
        let residencies: Vec<Residency> = residencies.iter().map(|&arg| arg.into()).collect();
        Ok(Placement::product(&residencies, &self.io_state, &self.memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
