//! A restart in place: the installed program takes this process's place while the leases it leaves are valid. What can be
//! known to go wrong is found out before anything is changed.

use std::time::Duration;

use cluster_proto::{Command, Resumed, Time};
use tokio::sync::oneshot;

use super::Daemon;
use super::handed_on::HandedOn;
use crate::control::{Call, ControlError, ErrorCode, EventBody, Reply};
use crate::driver::clock;
use crate::driver::mailbox::Order;

/// How long the heartbeat thread may take to get ready, and to say so. The core gives up sooner.
const PATIENCE: Duration = Duration::from_secs(8);

impl Daemon {
    /// Has the installed program take this process's place. Returns only if that was not possible.
    pub(super) async fn restart(&mut self, call: Call) {
        let error = match self.get_ready().await {
            Ok(resumed) => {
                let answered = call.answer_before_it_is_done(Reply::Done {}).await;
                let program = self.installed.program().display().to_string();
                tracing::info!(program, "this process is replaced");
                let handed_on = HandedOn::new(&resumed, &self.settings, clock::now());
                let failed = self.installed.take_over(&handed_on);
                self.call_off();
                let message =
                    format!("cannot execute {program}: {failed}; this daemon goes on as if nothing had been");
                let error = ControlError::new(ErrorCode::BadBinary, message);
                answered.failed(error.clone());
                error
            }
            Err(error) => {
                call.answer(Err(error.clone()));
                error
            }
        };
        self.record(EventBody::told("restart_refused", error.message));
    }

    /// Everything up to the point of no return.
    async fn get_ready(&mut self) -> Result<Resumed, ControlError> {
        if self.coming.is_some() {
            let message = "the heartbeat thread has not yet taken up the last configuration; try again";
            return Err(ControlError::new(ErrorCode::Busy, message));
        }
        let installed = self.installed.clone();
        self.patiently(installed.check()).await?;
        let id = self.answers.own_command();
        self.order(Order::Command(id, Command::PrepareRestart));
        let late = || {
            let message = "the heartbeat thread did not get ready for a restart in time; this daemon goes on";
            ControlError::new(ErrorCode::Timeout, message)
        };
        let ready = async {
            loop {
                if let Some(outcome) = self.answers.own_outcome(id) {
                    return outcome.map_err(ControlError::from);
                }
                if let Err(error) = self.attend().await {
                    return Err(ControlError::new(ErrorCode::Internal, error.to_string()));
                }
            }
        };
        match tokio::time::timeout(PATIENCE, ready).await {
            Ok(outcome) => outcome?,
            Err(_) => {
                self.call_off();
                return Err(late());
            }
        }
        let (sender, shown) = oneshot::channel();
        self.ask_what_to_hand_on(sender);
        // It stands still for a second, and says nothing once it does not any more.
        let shown = async { tokio::time::timeout(Duration::from_secs(1), shown).await };
        match self.patiently(shown).await {
            Ok(Ok(Some(resumed))) => Ok(resumed),
            Ok(_) | Err(_) => {
                self.call_off();
                Err(late())
            }
        }
    }

    /// The leases become as short as ever again.
    fn call_off(&mut self) {
        let id = self.answers.own_command();
        self.order(Order::Command(id, Command::CancelRestart));
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
