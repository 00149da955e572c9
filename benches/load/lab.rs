//! What all scenarios share: the folder, prepared stores, the servers, and the rows found so far.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::options::Options;
use crate::process;
use crate::server::{self, Build, Hashing, Server, USERS};
use crate::table::{self, Row, Target, Unit, median};
use crate::yardsticks;

pub struct Lab {
    pub options: Options,
    pub rows: Vec<Row>,
    /// The daemon's reactor without a store can be had.
    pub memory: bool,
    root: TempDir,
    folders: usize,
    /// Stopped stores of a cpd that knows the users.
    templates: Vec<(Build, Hashing, PathBuf)>,
}

/// One pair of rounds.
#[derive(Clone, Copy)]
pub struct Pair {
    pub cpd: Option<f64>,
    pub limit: f64,
}

impl Lab {
    /// The folder is made in the build's own, so that it lies on a real disk, not in /tmp's memory.
    pub fn new(options: Options) -> Result<Lab, String> {
        let parent = env!("CARGO_TARGET_TMPDIR");
        let root = fs::create_dir_all(parent)
            .and_then(|()| tempfile::Builder::new().prefix("load-").tempdir_in(parent))
            .map_err(|e| format!("{parent}: {e}"))?;
        process::clean_up_on_signals(root.path().to_path_buf())?;
        let memory = server::has_yardstick(&[yardsticks::MEMORY]);
        Ok(Lab { options, rows: Vec::new(), memory, root, folders: 0, templates: Vec::new() })
    }

    pub fn root(&self) -> &std::path::Path {
        self.root.path()
    }

    pub fn with_cpd(&self) -> bool {
        !self.options.limits_only
    }

    /// A folder that did not exist.
    pub fn folder(&mut self) -> Result<PathBuf, String> {
        self.folders += 1;
        let folder = self.root.path().join(self.folders.to_string());
        fs::create_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        Ok(folder)
    }

    /// The floor that appends to a fresh file.
    pub fn floor(&mut self) -> Result<Server, String> {
        let folder = self.folder()?;
        let file = folder.join("messages");
        server::yardstick(&[yardsticks::FLOOR, &file.to_string_lossy()], Some(folder))
    }

    /// The floor without a file, each download of which brings `queue` messages.
    pub fn floor_memory(&self, queue: usize) -> Result<Server, String> {
        server::yardstick(&[yardsticks::FLOOR_MEMORY, &queue.to_string()], None)
    }

    /// The daemon's reactor without a store, if it can be had.
    pub fn memory_server(&self) -> Result<Option<Server>, String> {
        self.memory.then(|| server::yardstick(&[yardsticks::MEMORY], None)).transpose()
    }

    /// cpd with its users and an empty queue.
    pub fn cpd(&mut self, hashing: Hashing) -> Result<Server, String> {
        self.build(&Build::own(), hashing)
    }

    /// The same of any build.
    pub fn build(&mut self, build: &Build, hashing: Hashing) -> Result<Server, String> {
        let template = self.template(build, hashing)?;
        let folder = self.folder()?;
        server::cpd_from(build, &template, folder, hashing)
    }

    /// The stopped store of a cpd that knows the users; made once.
    fn template(&mut self, build: &Build, hashing: Hashing) -> Result<PathBuf, String> {
        if let Some((_, _, folder)) = self.templates.iter().find(|(b, h, _)| b == build && *h == hashing) {
            return Ok(folder.clone());
        }
        let users = if hashing == Hashing::Cheap { USERS } else { crate::login::USERS };
        let folder = self.folder()?;
        let cpd = server::cpd(build, &folder, hashing)?;
        server::add_users(build, &folder, users)?;
        cpd.stop()?;
        self.templates.push((build.clone(), hashing, folder.clone()));
        Ok(folder)
    }

    /// Alternates `limit` and `cpd` for as many rounds as were asked for.
    pub fn pairs(
        &mut self,
        mut limit: impl FnMut(&mut Lab) -> Result<f64, String>,
        mut cpd: impl FnMut(&mut Lab) -> Result<f64, String>,
    ) -> Result<Vec<Pair>, String> {
        let mut pairs = Vec::new();
        for _ in 0..self.options.rounds {
            let limit = limit(self)?;
            let cpd = if self.with_cpd() { Some(cpd(self)?) } else { None };
            pairs.push(Pair { cpd, limit });
        }
        Ok(pairs)
    }

    /// Adds a row of medians. The ratio is the median of each pair's own, since a noisy machine is noisy for both.
    pub fn row(&mut self, scenario: &str, unit: Unit, pairs: &[Pair], target: Target, note: String) {
        let mut row = Row::new(scenario, unit);
        row.cpd = median(pairs.iter().filter_map(|pair| pair.cpd).collect());
        row.limit = median(pairs.iter().map(|pair| pair.limit).collect());
        row.ratio = median(pairs.iter().filter_map(|pair| Some(pair.cpd? / pair.limit)).collect());
        (row.target, row.note) = (target, note);
        self.push(row);
    }

    /// Adds a row of a limit alone.
    pub fn limit_row(&mut self, scenario: &str, unit: Unit, values: Vec<f64>, note: &str) {
        let mut row = Row::new(scenario, unit);
        (row.limit, row.note) = (median(values), note.into());
        self.push(row);
    }

    /// Adds a row of cpd's alone.
    pub fn value_row(&mut self, scenario: &str, unit: Unit, values: Vec<f64>, target: Target, note: &str) {
        let mut row = Row::new(scenario, unit);
        (row.cpd, row.target, row.note) = (median(values), target, note.into());
        self.push(row);
    }

    pub fn push(&mut self, row: Row) {
        // A run takes minutes: whoever watches sees what there is.
        eprint!("{}", table::render(std::slice::from_ref(&row)).lines().last().unwrap_or_default());
        eprintln!();
        self.rows.push(row);
    }
}
