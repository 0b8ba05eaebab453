//! `--memory-budget` and what belongs to it: builds that keep to a budget, and that the same command goes on with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use kiln_builder::{
    BuildPlan, BuildReport, BuildRequest, BuilderError, IndexKind, WithinBudget, build_within, plan_within,
};
use kiln_kernels::{Backend, Progress};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::{bytes, print, thousands};

/// Exit code of a build that was stopped by a signal, as shells have it for SIGINT.
pub const STOPPED: i32 = 130;

/// A budget to keep to.
#[derive(Debug, Clone, clap::Args)]
pub struct MemoryArgs {
    /// Build within so much memory, such as 16GiB: rows, and what is made of them, lie on the drive. What is finished is
    /// kept, and the same command goes on from there. Graphs: only those of --method partition
    #[arg(long, value_name = "SIZE", value_parser = super::parse_bytes, help_heading = "Budget")]
    memory_budget: Option<u64>,
    /// Folder for the working files [default: that of the output]
    #[arg(long, value_name = "DIR", requires = "memory_budget", help_heading = "Budget")]
    temp: Option<PathBuf>,
    /// Begin anew, whatever an earlier run has finished
    #[arg(long, requires = "memory_budget", help_heading = "Budget")]
    restart: bool,
}

/// A budget to keep to, and what is asked of it before a build begins.
#[derive(Debug, Clone, clap::Args)]
pub struct BudgetArgs {
    #[command(flatten)]
    memory: MemoryArgs,
    /// Refuse to begin where the working files would take more than this, such as 500GB
    #[arg(long, value_name = "SIZE", value_parser = super::parse_bytes, requires = "memory_budget", help_heading = "Budget")]
    temp_budget: Option<u64>,
    /// Say what the build would take, and do not build
    #[arg(long, requires = "memory_budget", help_heading = "Budget")]
    dry_run: bool,
}

impl MemoryArgs {
    /// Does `work` within the budget, where one was given. The first signal asks for an end after the unit at hand, the
    /// second ends the process where it is.
    pub fn keep<T>(&self, work: impl FnOnce(Option<WithinBudget<'_>>) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let Some(memory) = self.memory_budget else { return work(None) };
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            flag::register_conditional_shutdown(signal, STOPPED, Arc::clone(&asked)).context("cannot watch signals")?;
            flag::register(signal, Arc::clone(&asked)).context("cannot watch signals")?;
        }
        let stop = || asked.load(Ordering::Relaxed);
        work(Some(WithinBudget { memory, temp: self.temp.as_deref(), restart: self.restart, stop: &stop }))
    }
}

/// Says what an error leaves of a build of `out`.
pub fn tell_what_is_kept(error: &BuilderError, within: &WithinBudget<'_>, out: &Path) {
    let folder = within.folder(out);
    if !matches!(error, BuilderError::Interrupted { .. }) && folder.join("manifest.json").exists() {
        tracing::warn!("{}: keeps what is finished; the same command goes on from there", folder.display());
    }
}

impl BudgetArgs {
    /// Builds within the budget, where one was given, or says what that would take: then there is no report.
    pub fn build<B: Backend>(
        &self,
        backend: &B,
        request: &BuildRequest<'_>,
        progress: &dyn Progress,
    ) -> anyhow::Result<Option<BuildReport>> {
        self.memory.keep(|within| {
            let Some(within) = within else { return Ok(Some(kiln_builder::build(backend, request, progress)?)) };
            let plan = plan_within(request, &within)?;
            self.refuse_too_much(&plan, &within.folder(request.out))?;
            if self.dry_run {
                return self.tell(&plan.calibrated(backend, request)?).map(|()| None);
            }
            let built = build_within(backend, request, &within, progress);
            let report = built.inspect_err(|error| tell_what_is_kept(error, &within, request.out))?;
            Ok(Some(report))
        })
    }

    /// Refuses working files beyond the budget for them, or beyond what the drive has.
    fn refuse_too_much(&self, plan: &BuildPlan, folder: &Path) -> anyhow::Result<()> {
        let needed = plan.temp_bytes;
        if let Some(budget) = self.temp_budget {
            anyhow::ensure!(
                needed <= budget,
                "--temp-budget {}: the working files take about {}; give that much, or use a smaller {}",
                bytes(budget),
                bytes(needed),
                match plan.kind() {
                    IndexKind::Vamana => "--max-degree",
                    IndexKind::IvfPq => "--m",
                }
            );
        }
        if let Some(free) = plan.temp_free {
            anyhow::ensure!(
                needed <= free,
                "{}: the working files take about {}, and {} are free there; make room, or give another folder with --temp",
                folder.display(),
                bytes(needed),
                bytes(free)
            );
        }
        Ok(())
    }

    /// Prints a plan.
    fn tell(&self, plan: &BuildPlan) -> anyhow::Result<()> {
        print(&format!("{:<12} {:>6} {:>12} {:>12} {:>10}", "stage", "units", "memory", "device", "seconds"))?;
        for stage in &plan.stages {
            let device = if stage.device_bytes > 0 { bytes(stage.device_bytes) } else { "-".into() };
            // A stage whose work another does takes minus nothing.
            let seconds = format!("{:.1}", stage.seconds.max(0.0) + 0.0);
            let (units, memory) = (thousands(stage.units), bytes(stage.memory_bytes));
            print(&format!("{:<12} {units:>6} {memory:>12} {device:>12} {seconds:>10}", stage.name))?;
        }
        print(&format!(
            "memory {} of {}, working files {}, index {}, about {:.0} s",
            bytes(plan.memory_bytes()),
            bytes(plan.memory_budget),
            bytes(plan.temp_bytes),
            bytes(plan.index_bytes),
            plan.seconds()
        ))
    }
}
