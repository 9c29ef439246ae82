//! The real program under its plugins' names, in a folder of its own, with an agent of a few lines.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use schemas::wire::{Answer, Request, Withdrawal, read_frame, write_frame};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_dragline-cni");

/// How an agent behaves.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// It answers each question with the next of these; after the last one with that again.
    Answers(Vec<Answer>),
    /// It answers with these bytes and closes.
    Bytes(Vec<u8>),
    /// It reads the question and closes.
    Close,
    /// It reads the question and waits until the asker has gone.
    Silence,
    /// It sends a byte at a time, for longer than anybody wants to wait.
    Drops,
}

pub(crate) struct Scene {
    folder: TempDir,
    questions: Option<Receiver<Request>>,
}

pub(crate) struct Ran {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {:?} {}", self.stdout, self.stderr))
    }

    /// The code of the error that it printed, checked for its form.
    pub(crate) fn code(&self) -> u64 {
        let error = self.json();
        assert!(!self.success && error["cniVersion"].is_string() && error["msg"].is_string(), "{error}");
        error["code"].as_u64().unwrap()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { success: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Scene {
    pub(crate) fn without_agent() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        for name in ["spiderpool", "coordinator", "macvlan"] {
            std::os::unix::fs::symlink(PROGRAM, folder.path().join("bin").join(name)).unwrap();
        }
        Self { folder, questions: None }
    }

    pub(crate) fn with_agent(behaviour: Behaviour) -> Self {
        let mut scene = Self::without_agent();
        let listener = UnixListener::bind(scene.path("agent.sock")).unwrap();
        let (sender, receiver) = channel();
        scene.questions = Some(receiver);
        thread::spawn(move || {
            for (turn, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let request: Request = read_frame(&mut stream).unwrap();
                if sender.send(request).is_err() {
                    return;
                }
                behave(&behaviour, turn, &mut stream);
            }
        });
        scene
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The next question that the agent was asked.
    pub(crate) fn question(&self) -> Request {
        self.questions.as_ref().unwrap().try_recv().expect("the agent was not asked")
    }

    pub(crate) fn was_not_asked(&self) -> bool {
        self.questions.as_ref().is_none_or(|questions| questions.try_recv().is_err())
    }

    pub(crate) fn command(&self, plugin: &str, verb: &str) -> Command {
        let mut command = Command::new(self.path("bin").join(plugin));
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", "abc")
            .env("CNI_NETNS", "/run/netns/x")
            .env("CNI_IFNAME", "net1")
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=nginx")
            .env("CNI_PATH", self.path("bin"))
            .env("DRAGLINE_SOCKET", self.path("agent.sock"))
            .env("DRAGLINE_STATE_DIR", self.path("state"));
        command
    }

    pub(crate) fn call(&self, plugin: &str, verb: &str, conf: &Value) -> Ran {
        run(&mut self.command(plugin, verb), conf.to_string().as_bytes())
    }

    /// The spool's files with their withdrawals.
    pub(crate) fn spooled(&self) -> Vec<(String, Withdrawal)> {
        let Ok(entries) = std::fs::read_dir(self.path("state/spool")) else { return Vec::new() };
        let read = |path: &Path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let files = entries.map(|entry| entry.unwrap());
        files.map(|file| (file.file_name().into_string().unwrap(), read(&file.path()))).collect()
    }

    /// Another IPAM plugin: writes its verbs down and does what the shell text says.
    pub(crate) fn foreign_plugin(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path("bin").join(name);
        let text = format!(
            "#!/bin/sh\nread -r conf; echo \"$CNI_COMMAND $CNI_IFNAME $conf\" >> {}\n{text}\n",
            self.path("log").display()
        );
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn foreign_verbs(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        log.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    }
}

pub(crate) fn run(command: &mut Command, stdin: &[u8]) -> Ran {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that refuses early need not read it all.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap().into()
}

fn behave(behaviour: &Behaviour, turn: usize, stream: &mut UnixStream) {
    match behaviour {
        Behaviour::Answers(answers) => write_frame(stream, answers.get(turn).or(answers.last()).unwrap()).unwrap(),
        Behaviour::Bytes(bytes) => stream.write_all(bytes).unwrap(),
        Behaviour::Close => {}
        Behaviour::Silence => drop(stream.read(&mut [0])),
        Behaviour::Drops => {
            let _ = stream.write_all(&[0, 0, 1, 0]);
            stream.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
            while stream.write_all(b" ").is_ok() && !matches!(stream.read(&mut [0]), Ok(0)) {}
        }
    }
}
