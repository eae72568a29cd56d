//! Each tool's own folder: its store, its home with caches and keys, and what it restores to.
//!
//! Promise: a tool sees no other's files, nor those of whoever runs this; a loop device is taken away when its value goes.
//! Knows nothing of steps' commands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::plain;
use super::series::Series;
use super::step::Step;
use super::tools::{Proof, Tool};
use crate::place::LoopDevice;

/// A tool's folder.
#[derive(Debug)]
pub(crate) struct Place {
    folder: PathBuf,
    environment: Vec<(String, String)>,
}

impl Place {
    pub(crate) fn new(folder: &Path, tool: &Tool, cas: &Path) -> Result<Place> {
        let home = folder.join("home");
        let store = folder.join("store");
        fs::create_dir_all(&home)?;
        // Some tools insist on making their store's folder.
        if tool.init == "true" {
            fs::create_dir_all(&store)?;
        }
        let threads = std::thread::available_parallelism()?;
        let path = format!(
            "{}:{}",
            plain(cas.parent().context("cas: expected a path")?)?,
            std::env::var("PATH").unwrap_or_default()
        );
        let mut environment: Vec<(String, String)> = [
            ("STORE", plain(&store)?),
            ("HOME", plain(&home)?),
            ("XDG_CACHE_HOME", plain(&home.join("cache"))?),
            ("XDG_CONFIG_HOME", plain(&home.join("config"))?),
            ("XDG_DATA_HOME", plain(&home.join("data"))?),
            ("RESTIC_CACHE_DIR", plain(&home.join("cache"))?),
            ("RUSTIC_CACHE_DIR", plain(&home.join("cache"))?),
            ("BORG_BASE_DIR", plain(&home)?),
            ("BENCH", env!("CARGO_MANIFEST_DIR")),
            ("THREADS", threads.to_string().as_str()),
            ("PATH", path.as_str()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        for (name, value) in tool.environment {
            let value = value.replace("$STORE", plain(&store)?).replace("$HOME", plain(&home)?);
            environment.push(((*name).to_owned(), value));
        }
        Ok(Place { folder: folder.to_path_buf(), environment })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// Gives back what the store takes.
    pub(crate) fn empty(&self) -> Result<()> {
        fs::remove_dir_all(self.store())?;
        fs::create_dir(self.store())?;
        Ok(())
    }

    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        self.environment.clone()
    }

    /// What a restore is to write to; `None` for other steps.
    pub(crate) fn target(&self, step: Step, series: &Series) -> Result<Option<RestoreTarget>> {
        let folder = self.folder.join("restored");
        let file = folder.join("a.img");
        match step {
            Step::RestoreFile => {
                fs::create_dir(&folder)?;
                Ok(Some(RestoreTarget { folder, file, device: None }))
            }
            Step::RestoreDevice => {
                fs::create_dir(&folder)?;
                series.write_noise(&file)?;
                let device = LoopDevice::writable(&file).context("a loop device: needs root")?;
                Ok(Some(RestoreTarget { folder, file, device: Some(device) }))
            }
            _ => Ok(None),
        }
    }
}

/// A file that is not there yet, or a device that holds what has nothing to do with the image.
#[derive(Debug)]
pub(crate) struct RestoreTarget {
    folder: PathBuf,
    file: PathBuf,
    device: Option<LoopDevice>,
}

impl RestoreTarget {
    pub(crate) fn path(&self) -> &Path {
        self.device.as_ref().map_or(&self.file, LoopDevice::path)
    }

    /// That it holds the image now; then it is removed.
    pub(crate) fn prove(
        mut self,
        tool: &Tool,
        place: &Place,
        environment: &[(String, String)],
        image: &Path,
    ) -> Result<()> {
        self.device = None;
        let proof = match tool.proof {
            Proof::Equal => "cmp \"$IMAGE\" \"$TARGET\"",
            Proof::Own(command) => command,
        };
        let mut environment = environment.to_vec();
        environment.retain(|(name, _)| name != "TARGET");
        environment.push(("TARGET".to_owned(), plain(&self.file)?.to_owned()));
        run(place.folder(), &environment, proof).with_context(|| format!("not {}", image.display()))?;
        Ok(())
    }
}

impl Drop for RestoreTarget {
    fn drop(&mut self) {
        // First the device, then the file below it. What stays goes with the round's folder.
        self.device = None;
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// What a command that is not timed prints.
pub(crate) fn said(place: &Place, command: &str) -> Result<String> {
    run(&place.folder, &place.environment, command)
}

fn run(folder: &Path, environment: &[(String, String)], command: &str) -> Result<String> {
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", command]).current_dir(folder);
    let output = shell.envs(environment.iter().map(|(name, value)| (name, value))).output()?;
    let [printed, complained] =
        [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it).into_owned());
    ensure!(output.status.success(), "{command}: {}\n{printed}{complained}", output.status);
    // Some print their version as if it were a complaint.
    let all = if printed.trim().is_empty() { complained } else { printed };
    Ok(all.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned())
}

/// All programs are there, or an error that says how to get the others.
pub(crate) fn check_programs(tools: &[&Tool]) -> Result<()> {
    let folders: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let missing = |program: &&&str| {
        // The program has one name for each filesystem.
        let program = if **program == "partclone" { "partclone.extfs" } else { **program };
        !folders.iter().any(|folder| folder.join(program).is_file())
    };
    let mut programs: Vec<&str> = tools
        .iter()
        .flat_map(|tool| tool.programs)
        .filter(|it| **it != "cas")
        .filter(missing)
        .copied()
        .collect();
    programs.sort_unstable();
    programs.dedup();
    if !programs.is_empty() {
        let names = programs.join(" ");
        bail!(
            "{names}: not found; `bench/peers.sh {names}` installs what is missing, `--tools` leaves tools out"
        );
    }
    Ok(())
}

/// This checkout's, as it is shipped.
pub(crate) fn build_cas() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a checkout")?;
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).context("a target folder")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--package", "cli", "--target-dir"]).arg(target).current_dir(root);
    let status = cargo.status()?;
    ensure!(status.success(), "cargo build: {status}");
    Ok(target.join("release/cas"))
}
