//! Questions as fast as a processor can put them, and the counting of answers: XDP programs at the asker's end of a wire.
//!
//! `BPF_PROG_TEST_RUN` with live frames runs a program on frames that nobody has received and carries out its verdict: each becomes
//! a question and is sent. What comes back is counted and dropped by the program on the asker's interface, so that the asker costs
//! as little as it can.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use cluster_userspace::dataplane::TRAFFIC_OBJECT;
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::lab::Moment;
use crate::lab::clock::await_some;
use crate::lab::namespace::Namespace;
use crate::lab::run_in_real_time;
use crate::programs::{self, question_words};

/// How many frames go in one batch. A batch that is no larger than half of the ring at the other end of a veth (256) is answered
/// before the next one is sent, where both ends share a processor.
const BATCH: u32 = 64;
/// How many frames are sent to find out how long one takes.
const TRIAL: u32 = 1 << 14;
/// The fewest and the most that are sent in one call.
const CALLS: std::ops::RangeInclusive<f64> = 65_536.0..=64e6;
/// The askers' priority in real time, that of the lab's probes.
const PRIORITY: i32 = 42;
/// How long answers may be on their way when the last question has been put.
const LINGER: Duration = Duration::from_millis(20);

/// What is asked: a whole frame, and the program that sends it.
#[derive(Clone, Debug)]
pub struct Question {
    /// The frame, as long as the program needs it.
    pub frame: Vec<u8>,
    /// `ask_arp` or `ask_neighbour`.
    pub program: &'static str,
}

/// What was asked and answered.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Exchange {
    /// Questions.
    pub asked: u64,
    /// Answers.
    pub answered: u64,
    /// For how long questions were put, by the processor that took longest.
    pub took: Duration,
}

/// The asker's end: an interface whose program counts.
#[derive(Debug)]
pub struct Asker {
    namespace: Namespace,
    interface: &'static str,
    object: Ebpf,
}

impl Asker {
    /// Puts the counting program onto `interface` in `namespace`, until this is dropped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn on(namespace: &Namespace, interface: &'static str) -> anyhow::Result<Self> {
        let mut object = Ebpf::load(TRAFFIC_OBJECT).context("reading the BPF object of the asker")?;
        for name in ["ask_arp", "ask_neighbour", "count_answers"] {
            program(&mut object, name)?.load().with_context(|| format!("loading {name}"))?;
        }
        let counter = program(&mut object, "count_answers")?;
        let attached = namespace.run(|| Ok(counter.attach(interface, XdpMode::Driver)?));
        attached.with_context(|| format!("attaching to {interface}"))?;
        Ok(Self { namespace: namespace.clone(), interface, object })
    }

    /// Asks for about `length` from this many processors, as fast as they can, and counts the answers.
    ///
    /// Each processor asks by one call of the kernel, and what counts is for how long that has sent frames, as the kernel says: before
    /// and after it waits for other processors (the program gets a dispatcher of its own), some ten milliseconds in all.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn ask(
        &mut self,
        question: &Question,
        processors: usize,
        length: Duration,
    ) -> anyhow::Result<Exchange> {
        self.set(question)?;
        let program: &Xdp = self
            .object
            .program(question.program)
            .with_context(|| format!("no program {}", question.program))?
            .try_into()?;
        let (namespace, interface) = (&self.namespace, self.interface);
        let from =
            |processor, frames| namespace.run(|| ask_from(processor, program, interface, question, frames));
        let each = std::thread::scope(|scope| joined(scope.spawn(|| from(0, TRIAL))))?.as_secs_f64();
        let frames = (length.as_secs_f64() / (each / f64::from(TRIAL))).clamp(*CALLS.start(), *CALLS.end());
        let before = self.settled()?;
        let took: anyhow::Result<Vec<Duration>> = std::thread::scope(|scope| {
            let askers: Vec<_> = (0..processors)
                .map(|processor| scope.spawn(move || from(processor, frames as u32)))
                .collect();
            askers.into_iter().map(joined).collect()
        });
        let took = took?.into_iter().max().unwrap_or_default();
        let asked = processors as u64 * u64::from(frames as u32);
        Ok(Exchange { asked, answered: self.settled()? - before, took })
    }

    /// Puts the question where the programs find it.
    fn set(&mut self, question: &Question) -> anyhow::Result<()> {
        let map = self.object.map_mut("question").context("no map of questions")?;
        let mut questions: Array<&mut MapData, programs::Question> = map.try_into()?;
        Ok(questions.set(0, question_words(&question.frame), 0)?)
    }

    /// The count of answers, once it no longer grows.
    fn settled(&self) -> anyhow::Result<u64> {
        let mut before = None;
        await_some("the last answers", Duration::from_secs(5), || {
            (Moment::now() + LINGER).sleep();
            let now = self.answered()?;
            Ok((before.replace(now) == Some(now)).then_some(now))
        })
    }

    fn answered(&self) -> anyhow::Result<u64> {
        let map = self.object.map("answers").context("no map of answers")?;
        let answers: PerCpuArray<&MapData, u64> = map.try_into()?;
        Ok(answers.get(&0, 0)?.iter().sum())
    }
}

/// Answers every ARP request on an interface by the barest program there can be, until it is dropped.
#[derive(Debug)]
pub struct BareResponder {
    /// Its link ends with it.
    _object: Ebpf,
}

impl BareResponder {
    /// Attaches it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn on(namespace: &Namespace, interface: &str) -> anyhow::Result<Self> {
        let mut object = Ebpf::load(TRAFFIC_OBJECT).context("reading the BPF object of the responder")?;
        let answering = program(&mut object, "answer_all")?;
        answering.load().context("loading answer_all")?;
        let attached = namespace.run(|| Ok(answering.attach(interface, XdpMode::Driver)?));
        attached.with_context(|| format!("attaching to {interface}"))?;
        Ok(Self { _object: object })
    }
}

/// Asks so many questions from one processor. Returns how long it took.
fn ask_from(
    processor: usize,
    program: &Xdp,
    interface: &str,
    question: &Question,
    frames: u32,
) -> anyhow::Result<Duration> {
    let mut only = CpuSet::new();
    only.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &only).context("binding an asker to a processor")?;
    // Other work on the machine is no part of the figures; the daemon's own threads are above this one.
    run_in_real_time(PRIORITY).context("putting an asker into real time")?;
    // struct xdp_md (linux/bpf.h): data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex. Frames that the
    // program sends leave by the interface that they are said to have come in by.
    let length = u32::try_from(question.frame.len())?;
    let context = [0, length, 0, if_nametoindex(interface)?, 0, 0].map(u32::to_ne_bytes).concat();
    let options = TestRunOptions {
        data_in: Some(&question.frame),
        ctx_in: Some(&context),
        repeat: frames,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::default()
    };
    let ran = program.test_run(options).context("sending live frames, which takes Linux 5.18")?;
    // The kernel says how long a frame took, in whole nanoseconds.
    Ok(ran.duration * frames)
}

fn joined<T>(asker: std::thread::ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    asker.join().unwrap_or_else(|_| Err(anyhow!("an asker panicked")))
}

fn program<'o>(object: &'o mut Ebpf, name: &str) -> anyhow::Result<&'o mut Xdp> {
    let program =
        object.program_mut(name).with_context(|| format!("the asker's object has no program {name}"))?;
    program.try_into().with_context(|| format!("{name} is no XDP program"))
}
