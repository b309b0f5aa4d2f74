// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! One vector that the function receives on.

use inspect::Inspect;
use pal_async::wait::PolledWait;
use pal_event::Event;
use pci_core::msi::MsiRoute;
use pci_core::msi::MsiTarget;
use portal_device::Msi;
use std::task::Context;
use std::task::Poll;
use vmcore::vm_task::VmTaskDriver;

/// What is to happen with the vector's event.
#[derive(Copy, Clone, Debug, PartialEq, Inspect)]
#[inspect(external_tag)]
enum Wanted {
    /// It stays in the event.
    Nothing,
    /// The guest is interrupted.
    #[inspect(transparent)]
    Interrupt(#[inspect(debug)] Msi),
    /// The function is told.
    Told,
}

/// A vector: its event and the way from there.
#[derive(Inspect)]
pub(crate) struct Vector {
    #[inspect(skip)]
    event: Event,
    /// The hypervisor's own way from event to interrupt. Its event is `event`.
    #[inspect(rename = "kernel_direct", with = "Option::is_some")]
    route: Option<MsiRoute>,
    #[inspect(skip)]
    wait: Option<PolledWait<Event>>,
    wanted: Wanted,
    paused: bool,
    /// Events that came in through user space.
    hops: u64,
}

impl Vector {
    /// A vector that others ring by `event`.
    pub(crate) fn new(event: Event) -> Self {
        Self {
            event,
            route: None,
            wait: None,
            wanted: Wanted::Nothing,
            paused: true,
            hops: 0,
        }
    }

    /// The event that others signal.
    pub(crate) fn event(&self) -> &Event {
        &self.event
    }

    /// Gives the vector a route where the host has one: the event is the
    /// route's from then on. False when nothing changed.
    pub(crate) fn make_route(&mut self, target: &MsiTarget) -> bool {
        if self.route.is_some() {
            return false;
        }
        match target.new_route() {
            None => false,
            Some(Err(error)) => {
                tracelimit::warn_ratelimited!(
                    error = &*error as &dyn std::error::Error,
                    "no MSI route left for a doorbell vector; it takes the way through user space"
                );
                false
            }
            Some(Ok(route)) => {
                // What rang before is not lost with the old event.
                if self.event.try_wait() {
                    route.event().signal();
                }
                self.event = route.event().clone();
                self.wait = None;
                self.route = Some(route);
                true
            }
        }
    }

    pub(crate) fn connect(&mut self, msi: Msi) {
        self.set(Wanted::Interrupt(msi));
    }

    pub(crate) fn listen(&mut self) {
        self.set(Wanted::Told);
    }

    pub(crate) fn disconnect(&mut self) {
        self.set(Wanted::Nothing);
    }

    pub(crate) fn pause(&mut self, paused: bool) {
        self.paused = paused;
        self.set(self.wanted);
    }

    fn set(&mut self, wanted: Wanted) {
        self.wanted = wanted;
        match (&self.route, wanted) {
            (Some(route), Wanted::Interrupt(msi)) if !self.paused => {
                // An outstanding wait would take the event before the route.
                self.wait = None;
                route.enable(msi.address, msi.data);
            }
            (Some(route), _) => route.disable(),
            (None, _) => {}
        }
    }

    /// Whether the event is waited for here.
    fn waits(&self) -> bool {
        match self.wanted {
            Wanted::Told => true,
            Wanted::Interrupt(_) => self.route.is_none(),
            Wanted::Nothing => false,
        }
    }

    /// Whether somebody rang and it is for the function to know.
    pub(crate) fn poll(&mut self, driver: &VmTaskDriver, cx: &mut Context<'_>) -> bool {
        if !self.waits() {
            self.wait = None;
            return false;
        }
        let wait = match &mut self.wait {
            Some(wait) => wait,
            None => match PolledWait::new(driver, self.event.clone()) {
                Ok(wait) => self.wait.insert(wait),
                Err(error) => {
                    tracelimit::error_ratelimited!(
                        error = &error as &dyn std::error::Error,
                        "cannot wait for a doorbell"
                    );
                    return false;
                }
            },
        };
        let rung = matches!(wait.poll_wait(cx), Poll::Ready(Ok(())));
        self.hops += u64::from(rung);
        rung
    }

    /// Takes what rang while the vector was disconnected.
    pub(crate) fn take_pending(&mut self) -> bool {
        self.wanted == Wanted::Nothing && self.event.try_wait()
    }
}
