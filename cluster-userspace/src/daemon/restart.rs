//! A restart in place: the installed program takes this process's place while the leases it leaves are valid. What can be
//! known to go wrong is found out before anything is changed, and the daemon goes on with all its work meanwhile.

use cluster_proto::{Command, CommandId, Refusal, Resumed, Time};

use super::Daemon;
use super::handed_on::HandedOn;
use crate::control::{Call, ControlError, ErrorCode, EventBody, Reply};
use crate::driver::clock;
use crate::driver::mailbox::Order;

/// How far a restart is.
#[derive(Debug)]
pub(super) enum Replacing {
    /// The installed program checks the configuration.
    Checking(Call),
    /// The core gets its leases ready, or gives up by itself.
    Preparing(Call, CommandId),
    /// The core is asked for what the next one must know.
    Asking(Call),
    /// It has said so.
    Ready(Call, Resumed),
}

impl Daemon {
    /// An operator wants this daemon replaced.
    pub(super) fn begin_restart(&mut self, call: Call) {
        if self.replacing.is_some() {
            return call.answer(Err(Refusal::Busy.into()));
        }
        self.replacing = Some(Replacing::Checking(call));
        let (installed, outcomes) = (self.installed.clone(), self.checks.clone());
        tokio::spawn(async move {
            // The loop is gone only when the daemon stops.
            let _ = outcomes.send(installed.check().await).await;
        });
    }

    /// The installed program has checked the configuration.
    pub(super) fn checked(&mut self, outcome: Result<(), ControlError>) {
        let Some(Replacing::Checking(call)) = self.replacing.take() else { return };
        match outcome {
            Ok(()) => {
                let id = self.answers.own_command();
                self.replacing = Some(Replacing::Preparing(call, id));
                self.order(Order::Command(id, Command::PrepareRestart));
            }
            Err(error) => self.refuse_restart(call, error),
        }
    }

    /// The heartbeat thread may have answered.
    pub(super) fn advance_restart(&mut self) {
        let Some(Replacing::Preparing(call, id)) = self.replacing.take_if(
            |replacing| matches!(replacing, Replacing::Preparing(_, id) if self.answers.own_is_done(*id)),
        ) else {
            return;
        };
        match self.answers.own_outcome(id) {
            Some(Ok(())) => {
                self.replacing = Some(Replacing::Asking(call));
                self.ask_what_to_hand_on();
            }
            Some(Err(refusal)) => self.refuse_restart(call, refusal.into()),
            None => self.refuse_restart(call, Refusal::Superseded.into()),
        }
    }

    /// The core has said what the next one must know; nothing if it does not stand still for that any more.
    pub(super) fn hand_on(&mut self, resumed: Option<Resumed>) {
        let Some(Replacing::Asking(call)) = self.replacing.take() else { return };
        match resumed {
            Some(resumed) => self.replacing = Some(Replacing::Ready(call, resumed)),
            None => self.refuse_restart(call, Refusal::NotPromised.into()),
        }
    }

    /// Has the installed program take this process's place, if everything is ready for it. Returns only if it is not, or if
    /// that was not possible.
    pub(super) async fn leave_if_ready(&mut self) {
        let ready = self.replacing.take_if(|replacing| matches!(replacing, Replacing::Ready(..)));
        let Some(Replacing::Ready(call, resumed)) = ready else { return };
        let answered = call.answer_before_it_is_done(Reply::Done {}).await;
        let program = self.installed.program().display().to_string();
        tracing::info!(program, "this process is replaced");
        let failed = self.installed.take_over(&HandedOn::new(&resumed, &self.settings, clock::now()));
        let id = self.answers.own_command();
        self.order(Order::Command(id, Command::CancelRestart));
        let message =
            format!("cannot execute {program}: {failed}; this daemon goes on as if nothing had been");
        self.record(EventBody::told("restart_refused", message.clone()));
        answered.failed(ControlError::new(ErrorCode::BadBinary, message));
    }

    fn refuse_restart(&mut self, call: Call, error: ControlError) {
        self.record(EventBody::told("restart_refused", error.message.clone()));
        call.answer(Err(error));
    }

    /// Tells that this daemon has taken another's place, if it has.
    pub(super) fn tell_of_restart(&self, handed_on: Option<&HandedOn>) {
        let Some(HandedOn { version, at_ns, .. }) = handed_on else { return };
        let took = clock::now().since(Time::from_nanos(*at_ns));
        let own = env!("CARGO_PKG_VERSION");
        let text = format!("clusterd {own} took the place of {version} after {} ms", took.as_millis());
        tracing::info!("{text}");
        let duration_us = u64::try_from(took.as_micros()).ok();
        self.events.record(clock::now(), EventBody { duration_us, ..EventBody::told("restarted", text) });
    }
}
