//! The actor shell around [`ExecCore`]: one per exec.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResult, SpawnHandle,
    WrapFuture,
};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::admission::Permit;
use super::admitting::AdmissionOrder;
use super::audit_row::{self, Confidential};
use super::command;
use super::drive::{Drive, Happened, SIGNALS};
use super::event::{BeginResult, Effect, Event, Phase, Timer};
use super::live::LiveExec;
use super::output::{Printed, SharedOutput};
use super::phase::ExecCore;
use super::record::{AuditReceipt, EndedBy, Exec, ExecError, ExecState, Outcome};
use super::request::ExecSpec;
use super::stopping::KILL_BUDGET;
use crate::audit::{Audit, AuditRow, Verdict};
use crate::clock::Clock;
use crate::tunnel::{LeasedChannel, TunnelError, TunnelPool, WardenHandle, chain};

/// Ends an exec from outside; the first cause wins.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Cancel(pub(crate) EndedBy);

/// Asks how an exec stands.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "LiveLook")]
pub(crate) struct Look;

/// An exec as its actor knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveLook {
    /// Whose it is.
    pub workspace_id: Uuid,
    /// How it stands. While it runs `audit.committed` is false and digests are null.
    pub exec: Exec,
}

/// What every exec shares.
#[derive(Clone)]
pub(crate) struct ExecSurroundings {
    pub(crate) pool: TunnelPool,
    pub(crate) audit: Audit,
    pub(crate) clock: Clock,
    pub(crate) start_timeout: Duration,
}

/// One exec.
pub(crate) struct ExecActor {
    core: ExecCore,
    first_effects: Vec<Effect>,
    spec: ExecSpec,
    around: ExecSurroundings,
    output: Arc<SharedOutput>,
    begun: AuditRow,
    started_at: Option<OffsetDateTime>,
    ask: Option<SpawnHandle>,
    channel: Option<LeasedChannel>,
    signals: Option<mpsc::Sender<&'static str>>,
    poison: Option<oneshot::Sender<()>>,
    /// Of the tunnel whose channel is in use.
    warden: Option<WardenHandle>,
    timers: HashMap<Timer, SpawnHandle>,
    sealed: Option<Printed>,
    failure: Option<String>,
    row_is_final: bool,
    _permit: Permit,
    live: LiveExec,
}

impl ExecActor {
    pub(crate) fn new(
        spec: ExecSpec,
        around: ExecSurroundings,
        output: Arc<SharedOutput>,
        permit: Permit,
        live: LiveExec,
    ) -> Self {
        let timeout = spec.request.timeout();
        let order = if spec.body_hmac.is_some() {
            AdmissionOrder::RowFirst
        } else {
            AdmissionOrder::Together
        };
        let (core, first_effects) = ExecCore::new(timeout, around.start_timeout, order, Instant::now());
        let begun = audit_row::begin(&spec, around.clock.now());
        Self {
            core,
            first_effects,
            spec,
            around,
            output,
            begun,
            started_at: None,
            ask: None,
            channel: None,
            signals: None,
            poison: None,
            warden: None,
            timers: HashMap::new(),
            sealed: None,
            failure: None,
            row_is_final: true,
            _permit: permit,
            live,
        }
    }

    fn feed(&mut self, event: Event, ctx: &mut Context<Self>) {
        let effects = self.core.on(event, Instant::now());
        self.perform(effects, ctx);
    }

    fn perform(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        for effect in effects {
            match effect {
                Effect::BeginAudit => self.begin_audit(ctx),
                Effect::AskChannel => self.ask_channel(ctx),
                Effect::ReleaseChannel => {
                    self.channel = None;
                    if let Some(ask) = self.ask.take() {
                        ctx.cancel_future(ask);
                    }
                }
                Effect::SendRequest => self.send_request(ctx),
                Effect::NoteStart => self.started_at = Some(self.around.clock.now()),
                Effect::AnnounceStart => self.output.start(),
                Effect::Signal(name) => self.signal(name),
                Effect::EndOnInstance { session } => self.end_on_instance(session, ctx),
                Effect::SetTimer(timer, after) => self.set_timer(timer, after, ctx),
                Effect::AbandonChannel { poison } => self.abandon_channel(poison),
                Effect::Record => self.record(true, ctx),
                Effect::Settle => self.record(false, ctx),
                Effect::Disown => self.disown(),
                Effect::Publish { committed } => self.publish(committed),
            }
        }
        if self.core.phase() == Phase::Ended && self.row_is_final {
            ctx.stop();
        }
    }

    fn begin_audit(&mut self, ctx: &mut Context<Self>) {
        let audit = self.around.audit.clone();
        let row = self.begun.clone();
        let begin = async move { audit.begin(row).await };
        ctx.spawn(begin.into_actor(self).map(|verdict, act, ctx| {
            let result = match verdict {
                Verdict::Committed => BeginResult::Committed,
                Verdict::Taken => BeginResult::Taken,
                Verdict::NotWritten => BeginResult::NotWritten,
                Verdict::Uncertain => BeginResult::Uncertain,
            };
            if matches!(result, BeginResult::Committed | BeginResult::Uncertain) {
                act.live.claim_id();
            }
            act.feed(Event::Begun(result), ctx);
            // Unless it has been disowned just now.
            act.output.decide(true);
        }));
    }

    fn ask_channel(&mut self, ctx: &mut Context<Self>) {
        let pending = self
            .around
            .pool
            .ask(&self.spec.target, self.spec.request.timeout());
        let ask = async move {
            match pending {
                Ok(pending) => pending.wait().await,
                Err(error) => Err(error),
            }
        };
        let handle = ctx.spawn(ask.into_actor(self).map(|answer, act, ctx| {
            act.ask = None;
            match answer {
                Ok(leased) => {
                    let facts = leased.facts.clone();
                    act.channel = Some(leased);
                    act.feed(Event::Leased(facts), ctx);
                }
                Err(error) => act.no_lease(&error, ctx),
            }
        }));
        self.ask = Some(handle);
    }

    fn no_lease(&mut self, error: &TunnelError, ctx: &mut Context<Self>) {
        self.failure = Some(chain(error));
        self.feed(
            Event::NoLease {
                code: error.code(),
                retry_after: error.retry_after(),
            },
            ctx,
        );
    }

    fn send_request(&mut self, ctx: &mut Context<Self>) {
        let Some((channel, lease)) = self.channel.take().and_then(LeasedChannel::into_parts) else {
            tracing::error!(exec_id = %self.spec.exec_id, "an exec request was due without a channel");
            ctx.run_later(Duration::ZERO, |act, ctx| act.feed(Event::TunnelLost, ctx));
            return;
        };
        let (signals, signals_ordered) = mpsc::channel(SIGNALS);
        let (poison, poisoned) = oneshot::channel();
        (self.signals, self.poison) = (Some(signals), Some(poison));
        let warden = lease.warden().clone();
        let mark = command::new_mark();
        self.warden = Some(warden.clone());
        let drive = Drive {
            channel,
            lease,
            line: command::line(&self.spec.request, self.spec.exec_id, warden.mark(), &mark),
            mark,
            stdin: std::mem::take(&mut self.spec.request.stdin),
            output: Arc::clone(&self.output),
            actor: ctx.address().recipient(),
            signals: signals_ordered,
            poison: poisoned,
        };
        // Apart from this actor: the channel is drained to its end even when the exec is over.
        drop(tokio::spawn(drive.run()));
    }

    fn signal(&self, name: &'static str) {
        if let Some(signals) = &self.signals {
            // There is room for every signal there is; a closed queue means that the channel has ended.
            signals.try_send(name).ok();
        }
    }

    fn end_on_instance(&mut self, session: Option<u32>, ctx: &mut Context<Self>) {
        let Some(warden) = self.warden.clone() else {
            return;
        };
        let end = warden.end(self.spec.exec_id, session, KILL_BUDGET);
        ctx.spawn(
            end.into_actor(self)
                .map(|answer, act, ctx| act.feed(Event::EndedOnInstance(answer), ctx)),
        );
    }

    fn abandon_channel(&mut self, poison: bool) {
        self.signals = None;
        if let Some(sender) = self.poison.take().filter(|_| poison) {
            // Fails only when the connection is gone, and the tunnel with it.
            sender.send(()).ok();
        }
    }

    fn set_timer(&mut self, timer: Timer, after: Duration, ctx: &mut Context<Self>) {
        let handle = ctx.run_later(after, move |act, ctx| {
            act.timers.remove(&timer);
            let event = match timer {
                Timer::Silence => Event::Silence {
                    last_output: act.output.last_output(),
                },
                Timer::Start
                | Timer::Request
                | Timer::Timeout
                | Timer::TermGrace
                | Timer::KillBudget
                | Timer::Finish => Event::Timer(timer),
            };
            act.feed(event, ctx);
        });
        if let Some(earlier) = self.timers.insert(timer, handle) {
            ctx.cancel_future(earlier);
        }
    }

    /// Writes the final row; `is_begun` when its begin is known to be committed.
    fn record(&mut self, is_begun: bool, ctx: &mut Context<Self>) {
        // The exec is over: its lease may go as soon as its channel has closed.
        self.poison = None;
        self.row_is_final = false;
        let audit = self.around.audit.clone();
        let exec = self.exec(true);
        let row = audit_row::finish(
            &self.begun,
            &exec,
            Confidential {
                failure: self.failure.as_deref().or_else(|| self.core.refusal()),
                aws_request_ids: self.core.aws_request_ids(),
            },
        );
        let finish = async move { audit.finish(row).await };
        ctx.spawn(finish.into_actor(self).map(move |verdict, act, ctx| {
            act.row_is_final = true;
            if verdict == Verdict::Taken && is_begun {
                tracing::error!(exec_id = %act.spec.exec_id, "an exec's audit row has become another's; its end is not recorded");
            }
            match verdict {
                Verdict::Committed => act.feed(Event::Recorded, ctx),
                // The caller learns `committed: false` as from the finish deadline.
                Verdict::Taken | Verdict::NotWritten | Verdict::Uncertain => act.feed(Event::Timer(Timer::Finish), ctx),
            }
        }));
    }

    fn publish(&mut self, committed: bool) {
        let exec = self.exec(committed);
        if exec.kill.as_ref().is_some_and(|kill| !kill.confirmed) {
            tracing::warn!(
                exec_id = %exec.exec_id,
                instance = %self.spec.target.instance,
                "what this exec has started may live on until its tunnel ends"
            );
        }
        tracing::info!(
            exec_id = %exec.exec_id,
            workspace_id = %self.spec.workspace_id,
            instance = %self.spec.target.instance,
            outcome = exec.outcome.map(tracing::field::debug),
            ended_by = exec.ended_by.map(tracing::field::debug),
            exit_code = exec.exit_code,
            code = exec.error.as_ref().map(|error| error.code.as_str()),
            cause = self.failure.as_deref().or_else(|| self.core.refusal()),
            kill_confirmed = exec.kill.as_ref().map(|kill| kill.confirmed),
            duration_ms = exec.duration_ms,
            committed,
            "exec ended"
        );
        self.output.end(Box::new(exec), self.core.retry_after());
    }

    fn disown(&self) {
        tracing::info!(
            exec_id = %self.spec.exec_id,
            workspace_id = %self.spec.workspace_id,
            "another try owns the exec's id; nothing ran"
        );
        self.output.decide(false);
    }

    /// The `Exec` at its end; output that comes later does not count.
    fn exec(&mut self, committed: bool) -> Exec {
        let sealed = self.sealed.get_or_insert_with(|| self.output.seal()).clone();
        self.describe(sealed, committed)
    }

    fn describe(&self, printed: Printed, committed: bool) -> Exec {
        let ending = self.core.ending().cloned();
        Exec {
            exec_id: self.spec.exec_id,
            state: match ending {
                Some(_) => ExecState::Ended,
                None => ExecState::Running,
            },
            ran: self.core.ran(),
            outcome: ending.as_ref().map(|ending| ending.outcome),
            ended_by: ending.as_ref().map(|ending| ending.ended_by),
            exit_code: self.core.exit_code(),
            signal: self.core.signal(),
            error: ending.and_then(|ending| ending.error).map(ExecError::from),
            started_at: self.started_at.unwrap_or(self.begun.created_at),
            duration_ms: u64::try_from(self.core.duration(Instant::now()).as_millis()).unwrap_or(u64::MAX),
            timeout_s: self.spec.request.timeout_s,
            streams: printed.streams,
            kill: self.core.kill(),
            tunnel: self.core.temperature(),
            timing_ms: self.core.timing(printed.first_output),
            audit: AuditReceipt {
                id: self.spec.exec_id,
                committed,
            },
        }
    }
}

impl Actor for ExecActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.live.register(ctx.address());
        let effects = std::mem::take(&mut self.first_effects);
        self.perform(effects, ctx);
    }
}

impl Drop for ExecActor {
    /// An exec that fails inside must not leave its caller waiting, nor its program running. Its row is left to the sweep.
    fn drop(&mut self) {
        match self.core.phase() {
            Phase::Ended => return,
            Phase::Requested | Phase::Running | Phase::Stopping => {
                self.signal("KILL");
                self.abandon_channel(true);
            }
            Phase::Admitting { .. } | Phase::Undecided | Phase::Draining | Phase::Recording => {}
        }
        tracing::error!(exec_id = %self.spec.exec_id, "an exec's actor went down before its end");
        let mut exec = self.exec(false);
        if exec.outcome.is_none() {
            exec.state = ExecState::Ended;
            exec.outcome = Some(Outcome::Unknown);
            exec.ended_by = Some(EndedBy::Crash);
        }
        self.output.end(Box::new(exec), None);
    }
}

impl Handler<Happened> for ExecActor {
    type Result = ();

    fn handle(&mut self, Happened(event): Happened, ctx: &mut Self::Context) {
        self.feed(event, ctx);
    }
}

impl Handler<Cancel> for ExecActor {
    type Result = ();

    fn handle(&mut self, Cancel(by): Cancel, ctx: &mut Self::Context) {
        self.feed(Event::Cancel(by), ctx);
    }
}

impl Handler<Look> for ExecActor {
    type Result = MessageResult<Look>;

    fn handle(&mut self, _: Look, _: &mut Self::Context) -> Self::Result {
        let printed = self.sealed.clone().unwrap_or_else(|| self.output.so_far());
        MessageResult(LiveLook {
            workspace_id: self.spec.workspace_id,
            exec: self.describe(printed, false),
        })
    }
}
