//! Readers of files that are restored in parts, while agent, mover or guard are killed.

use crate::ranges::{MIB, start_with};
use crate::support::{Hsm, LONG, kill, noise, queued};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use testkit::random::rounds;
use testkit::{FsKind, Random, Scratch, wait_until};

/// A reader: reads files at random in all ways, until it is told to end by its standard input, and has read so often. What is wrong
/// ends it; errors are counted.
const READER: &str = r"
import mmap,os,random,select,sys,time
where,copies,seed,least=sys.argv[1],sys.argv[2],int(sys.argv[3]),int(sys.argv[4])
limit=time.time()+120
names=sorted(os.listdir(copies))
good={n:open(copies+'/'+n,'rb').read() for n in names}
r=random.Random(seed)
errors=reads=0
scratch=copies+'/../out'+str(seed)
while (reads<least or not select.select([0],[],[],0)[0]) and time.time()<limit:
    name=r.choice(names)
    want=good[name]
    try:
        f=os.open(where+'/'+name,os.O_RDONLY)
        try:
            for _ in range(r.randrange(1,5)):
                how=r.randrange(16)
                at=r.randrange(len(want)); n=min(r.choice([1,4096,70000,1500000]),len(want)-at)
                if how==0:
                    at=at//4096*4096; n=min(n,len(want)-at)
                    m=mmap.mmap(f,n,prot=mmap.PROT_READ,flags=mmap.MAP_SHARED,offset=at); got=m[:]; m.close()
                elif how==1:
                    o=os.open(scratch,os.O_RDWR|os.O_CREAT|os.O_TRUNC)
                    n=os.sendfile(o,f,at,n); got=os.pread(o,n,0); os.close(o)
                else:
                    got=os.pread(f,n,at)
                reads+=1
                if got!=want[at:at+len(got)] or (len(got)==0 and n>0):
                    print('WRONG',name,how,at,n,len(got),got[:8].hex()); sys.exit(3)
        finally:
            os.close(f)
    except OSError as e:
        errors+=1
        time.sleep(0.01)
print(reads,errors)
";

const FILES: u64 = 5;
/// How often each reader reads at least.
const READS: u64 = 40;
const KILLS: usize = 2;

/// Kills `who` (0: agent, 1: mover, 2: guard) twice, so that nobody's back-off grows long, under readers at random and while what
/// came is released again.
fn torment(kind: FsKind, who: usize) {
    let mut random = Random::from_env();
    for round in 0..rounds(1, 20) {
        let hsm = start_with(kind, "readahead = \"3MiB\" timeout_s = 120");
        let scratch = Scratch::new("copies");
        let copies = scratch.join("copies");
        fs::create_dir(&copies).unwrap();
        let files: Vec<(PathBuf, Vec<u8>)> = (0..FILES)
            .map(|i| {
                let content = noise(40 + i, 9 * MIB + 4321);
                fs::write(copies.join(format!("f{i}")), &content).unwrap();
                (hsm.file(&format!("f{i}"), &content), content)
            })
            .collect();
        let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
        hsm.archive(&paths);
        hsm.release(&paths);
        let reader = |seed: u64| {
            let mut command = Command::new("python3");
            command.args(["-c", READER]).arg(hsm.fs.path()).arg(&copies).args([seed, READS].map(|n| n.to_string()));
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        };
        let readers: Vec<Child> = (0..3).map(|_| reader(random.within(0..1 << 30))).collect();
        let begun = Instant::now();
        let (mut kills, mut killed) = (0, Vec::new());
        let mut next = Instant::now() + Duration::from_millis(random.within(100..1500));
        while begun.elapsed() < Duration::from_secs(4) || kills < KILLS {
            assert!(begun.elapsed() < LONG, "{kind:?} round {round}: {kills} kills");
            let _ = hsm.run(&["release"], &paths);
            if kills < KILLS && next <= Instant::now() {
                // Whoever was killed may be named for a moment longer.
                let pids: Vec<i32> = victims(&hsm, who).into_iter().filter(|pid| !killed.contains(pid)).collect();
                kills += usize::from(!pids.is_empty());
                pids.iter().copied().for_each(kill);
                killed.extend(pids);
                next = Instant::now() + Duration::from_millis(random.within(100..1500));
            }
        }
        let mut errors = 0;
        for reader in readers {
            // This closes its standard input.
            let out = reader.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.status.success(), "{kind:?} round {round}: {text}");
            let mut counts = text.split_whitespace().map(|n| n.parse::<u64>().unwrap());
            let reads = counts.next().unwrap();
            assert!(reads >= READS, "{kind:?} round {round}: a reader read {reads} times");
            errors += counts.next().unwrap();
        }
        assert!(errors == 0 || who == 2, "{kind:?} round {round}: {errors} errors although the guard lived");
        wait_until(LONG, "the agent answers again", || hsm.status().is_some());
        hsm.wait_for_movers();
        for (path, content) in &files {
            assert!(fs::read(path).unwrap() == *content, "{kind:?} round {round}");
        }
        wait_until(LONG, "the queue is empty", || hsm.status().is_some_and(|s| queued(&s) == 0));
    }
}

/// The processes of that kind, if any is there just now.
fn victims(hsm: &Hsm, who: usize) -> Vec<i32> {
    let Some(status) = hsm.status() else { return Vec::new() };
    let plugins = status["agent"]["plugins"].as_array().unwrap().iter().map(|plugin| &plugin["pid"]);
    let pids = match who {
        0 => vec![&status["pid"]],
        1 => plugins.collect(),
        _ => vec![&status["source"]["guard"]["pid"]],
    };
    pids.into_iter().filter_map(Value::as_i64).map(|pid| i32::try_from(pid).unwrap()).collect()
}

#[test]
fn p5_p3_readers_of_parts_while_the_agent_is_killed() {
    for kind in FsKind::ALL {
        torment(kind, 0);
    }
}

#[test]
fn p5_p3_readers_of_parts_while_the_mover_is_killed() {
    for kind in FsKind::ALL {
        torment(kind, 1);
    }
}

#[test]
fn p5_p3_readers_of_parts_while_the_guard_is_killed() {
    for kind in FsKind::ALL {
        torment(kind, 2);
    }
}
