//! One program from its start to its end: in a process group of its own, with a clean environment, killed with all that it started when it is
//! cancelled or takes too long.
//!
//! One thread serves its three streams: whatever it writes, and however much, memory is a few buffers.

use super::complaints::Complaints;
use super::error::CommandError;
use config::command::CommandArchive;
use std::ffi::OsString;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use sys::children::{Wanted, kill_group, wait_ready};
use sys::process::PidFd;
use transfer::TransferError;

/// What programs get where the configuration does not say otherwise.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How often it is looked whether somebody cancelled.
const TICK: Duration = Duration::from_millis(100);
/// Between the request to end and the kill: a tape client may have a session to close. P4 leaves a second for all of it.
const GRACE: Duration = Duration::from_millis(500);
/// How long is waited for what is in the pipes after the program's end.
const DRAIN: Duration = Duration::from_secs(1);
/// What a pipe holds.
const BUFFER: usize = 64 << 10;
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// Gives the next bytes of standard input; an empty buffer is the end.
pub(super) type Input<'a> = &'a mut dyn FnMut(&mut Vec<u8>) -> Result<(), TransferError>;
/// Takes what comes on standard output.
pub(super) type Output<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), TransferError>;

/// Runs `words` to its end. `stopped` is asked at least ten times a second.
///
/// # Errors
/// It could not be started, was stopped, took too long, or failed; `input` or `output` failed. In each case it, and what is left of its process group, is gone.
pub(super) fn run(
    archive: &CommandArchive,
    words: &[OsString],
    directory: &Path,
    input: Option<Input<'_>>,
    output: Output<'_>,
    stopped: &dyn Fn() -> bool,
) -> Result<(), CommandError> {
    let mut program = Program::start(archive, words, directory, input.is_some())?;
    let mut complaints = Complaints::new(&archive.failures);
    let mut feeding = input.map(|next| Feeding { next, buffer: Vec::new(), sent: 0 });
    let waited = program.serve(archive, &mut feeding, output, &mut complaints, stopped);
    let name = program.name.clone();
    match waited {
        Ok(Waited::Ended) => {
            let left = program.input_left(feeding.as_ref());
            let status = program.finish(output, &mut complaints)?;
            ended(name, status, left, complaints)
        }
        Ok(Waited::TooLong(after)) => {
            program.stop();
            Err(CommandError::TooLong { program: name, after, said: complaints.finish(None).0 })
        }
        Ok(Waited::Silent(after)) => {
            program.stop();
            Err(CommandError::Silent { program: name, after, said: complaints.finish(None).0 })
        }
        Err(error) => {
            program.stop();
            Err(error)
        }
    }
}

fn ended(program: String, status: ExitStatus, left: u64, complaints: Complaints<'_>) -> Result<(), CommandError> {
    if status.success() {
        return if left == 0 { Ok(()) } else { Err(CommandError::NotRead { program, left }) };
    }
    let how = match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => format!("was killed by signal {}", status.signal().unwrap_or_default()),
    };
    let (said, verdict) = complaints.finish(status.code());
    Err(CommandError::Failed { program, how, said, verdict })
}

enum Waited {
    Ended,
    TooLong(Duration),
    Silent(Duration),
}

struct Feeding<'a> {
    next: Input<'a>,
    buffer: Vec<u8>,
    /// How much of the buffer is in the pipe.
    sent: usize,
}

/// Dropping it kills and reaps.
struct Program {
    name: String,
    child: Child,
    end: PidFd,
    stdin: Option<PipeWriter>,
    /// The program's end of its standard input: what is in it after its end was not read.
    unread: Option<PipeReader>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    reaped: bool,
}

impl Program {
    fn start(
        archive: &CommandArchive,
        words: &[OsString],
        directory: &Path,
        feeds: bool,
    ) -> Result<Self, CommandError> {
        let failed = |doing: &'static str| move |source| CommandError::System { doing, source };
        let (first, rest) = words.split_first().ok_or(CommandError::Unsupported("an empty command line"))?;
        let name = first.to_string_lossy().into_owned();
        let mut command = Command::new(first);
        command.args(rest).current_dir(directory).env_clear();
        command.env("PATH", PATH).env("HOME", "/root").env("LC_ALL", "C").envs(&archive.environment);
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
        sys::process::die_with_parent(&mut command);
        sys::children::inherit_nothing(&mut command);
        let (mut stdin, mut unread) = (None, None);
        if feeds {
            let (reader, writer) = std::io::pipe().map_err(failed("make a pipe"))?;
            command.stdin(reader.try_clone().map_err(failed("make a pipe"))?);
            sys::children::set_nonblocking(&writer).map_err(failed("prepare a pipe"))?;
            (stdin, unread) = (Some(writer), Some(reader));
        }
        let mut child = command.spawn().map_err(|source| CommandError::Start { program: name.clone(), source })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let end = match PidFd::open(child.id().cast_signed()) {
            Ok(end) => end,
            Err(source) => {
                let _ = kill_group(child.id().cast_signed(), SIGKILL);
                let _ = child.wait();
                return Err(CommandError::System { doing: "watch a program", source });
            }
        };
        let program = Self { name, child, end, stdin, unread, stdout, stderr, reaped: false };
        let streams = [program.stdout.as_ref().map(AsFd::as_fd), program.stderr.as_ref().map(AsFd::as_fd)];
        for stream in streams.into_iter().flatten() {
            sys::children::set_nonblocking(stream).map_err(failed("prepare a pipe"))?;
        }
        Ok(program)
    }

    fn serve(
        &mut self,
        archive: &CommandArchive,
        feeding: &mut Option<Feeding<'_>>,
        output: Output<'_>,
        complaints: &mut Complaints<'_>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Waited, CommandError> {
        let began = Instant::now();
        let (mut heard, mut asked) = (began, None::<Instant>);
        loop {
            let now = Instant::now();
            if asked.is_none_or(|asked| now.duration_since(asked) >= TICK) {
                asked = Some(now);
                if stopped() {
                    return Err(TransferError::Cancelled.into());
                }
                // What it started may go on writing.
                if self.has_ended(Duration::ZERO) {
                    return Ok(Waited::Ended);
                }
            }
            if now.duration_since(began) >= archive.timeout {
                return Ok(Waited::TooLong(archive.timeout));
            }
            if let Some(limit) = archive.output_timeout.filter(|limit| now.duration_since(heard) >= *limit) {
                return Ok(Waited::Silent(limit));
            }
            if self.turn(feeding, output, complaints)? {
                heard = Instant::now();
            } else if self.has_ended(Duration::ZERO) {
                return Ok(Waited::Ended);
            }
        }
    }

    /// Waits a moment for whatever can be done, and does it. Whether anything moved.
    fn turn(
        &mut self,
        feeding: &mut Option<Feeding<'_>>,
        output: Output<'_>,
        complaints: &mut Complaints<'_>,
    ) -> Result<bool, CommandError> {
        let streams = [
            (self.stdout.as_ref().map(AsFd::as_fd), Wanted::Read),
            (self.stderr.as_ref().map(AsFd::as_fd), Wanted::Read),
            (self.stdin.as_ref().map(AsFd::as_fd), Wanted::Write),
            (Some(self.end.as_fd()), Wanted::Read),
        ];
        let waited: Vec<(BorrowedFd<'_>, Wanted)> =
            streams.into_iter().filter_map(|(fd, wanted)| Some((fd?, wanted))).collect();
        wait_ready(&waited, TICK).map_err(|source| CommandError::System { doing: "wait for a program", source })?;
        let mut moved = take(&mut self.stdout, output)?;
        moved |= take(&mut self.stderr, &mut |bytes| {
            complaints.push(bytes);
            Ok(())
        })?;
        if let Some(feeding) = feeding {
            moved |= self.feed(feeding)?;
        }
        Ok(moved)
    }

    fn feed(&mut self, feeding: &mut Feeding<'_>) -> Result<bool, CommandError> {
        let Some(pipe) = &mut self.stdin else { return Ok(false) };
        if feeding.sent == feeding.buffer.len() {
            feeding.buffer.clear();
            feeding.sent = 0;
            (feeding.next)(&mut feeding.buffer)?;
            if feeding.buffer.is_empty() {
                self.stdin = None;
                return Ok(true);
            }
        }
        match pipe.write(feeding.buffer.get(feeding.sent..).unwrap_or_default()) {
            Ok(sent) => {
                feeding.sent += sent;
                Ok(sent > 0)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(source) => Err(CommandError::System { doing: "write to a program", source }),
        }
    }

    /// How much of its input an ended program did not read; one at least if there was more to come.
    fn input_left(&self, feeding: Option<&Feeding<'_>>) -> u64 {
        let in_pipe = self.unread.as_ref().map_or(0, |pipe| sys::children::unread(pipe).unwrap_or(1));
        let more = match feeding {
            Some(feeding) if self.stdin.is_some() => (feeding.buffer.len() - feeding.sent).max(1) as u64,
            _ => 0,
        };
        in_pipe + more
    }

    /// After its end: what it started ends, too, and what is in the pipes is read.
    fn finish(mut self, output: Output<'_>, complaints: &mut Complaints<'_>) -> Result<ExitStatus, CommandError> {
        self.kill(SIGKILL);
        let until = Instant::now() + DRAIN;
        while (self.stdout.is_some() || self.stderr.is_some()) && Instant::now() < until {
            let moved = self.turn(&mut None, output, complaints)?;
            if !moved && (self.stdout.is_some() || self.stderr.is_some()) {
                // Its end is ready all the time, and would not let us wait.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.reaped = true;
        self.child.wait().map_err(|source| CommandError::System { doing: "wait for a program", source })
    }

    /// Ends it with all that it started: asked first, and killed soon after.
    fn stop(&mut self) {
        self.stdin = None;
        self.kill(SIGTERM);
        let until = Instant::now() + GRACE;
        // It may wait until somebody reads what it has to say.
        let mut nowhere = |_: &[u8]| Ok(());
        while Instant::now() < until && !self.has_ended(Duration::from_millis(10)) {
            let _ = take(&mut self.stdout, &mut nowhere);
            let _ = take(&mut self.stderr, &mut nowhere);
        }
        self.reap();
    }

    fn has_ended(&self, wait: Duration) -> bool {
        wait_ready(&[(self.end.as_fd(), Wanted::Read)], wait).is_ok_and(|ready| ready == [true])
    }

    /// Only before it was waited for: the number is its own as long as nobody did.
    fn kill(&self, signal: i32) {
        let _ = kill_group(self.child.id().cast_signed(), signal);
    }

    fn reap(&mut self) {
        if !self.reaped {
            self.kill(SIGKILL);
            self.reaped = true;
            let _ = self.child.wait();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.reap();
    }
}

/// Reads once, if there is something; closes at the end.
fn take<R: Read>(stream: &mut Option<R>, to: Output<'_>) -> Result<bool, CommandError> {
    let Some(reader) = stream else { return Ok(false) };
    let mut buffer = [0; BUFFER];
    match reader.read(&mut buffer) {
        Ok(0) => {
            *stream = None;
            Ok(true)
        }
        Ok(read) => {
            to(buffer.get(..read).unwrap_or_default())?;
            Ok(true)
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
        Err(source) => Err(CommandError::System { doing: "read from a program", source }),
    }
}
