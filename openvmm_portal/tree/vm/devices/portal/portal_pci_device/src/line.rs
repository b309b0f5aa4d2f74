// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! The way of one vector's events to the guest.

use pal_async::wait::PolledWait;
use pal_event::Event;
use pci_core::msi::MsiRoute;
use pci_core::msi::MsiTarget;
use portal_device::standing::Delivery;
use std::task::Context;
use std::task::Poll;
use vmcore::vm_task::VmTaskDriver;

/// An event that other peers signal, and what delivers it.
pub(crate) struct Line {
    event: Event,
    /// The hypervisor's own way from event to interrupt. Its event is `event`.
    route: Option<MsiRoute>,
    wait: Option<PolledWait<Event>>,
}

impl Line {
    pub(crate) fn new(event: Event) -> Self {
        Self {
            event,
            route: None,
            wait: None,
        }
    }

    pub(crate) fn event(&self) -> &Event {
        &self.event
    }

    /// Gives the line a route where the host has one: the event is the route's from then
    /// on. False when nothing changed.
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

    /// From now on its events go this way.
    pub(crate) fn deliver(&mut self, delivery: Delivery) {
        match (&self.route, delivery) {
            (Some(route), Delivery::Direct(msi)) => {
                // An outstanding wait would take the event before the route.
                self.wait = None;
                route.enable(msi.address, msi.data);
            }
            (Some(route), _) => route.disable(),
            (None, _) => {}
        }
        if delivery != Delivery::Told {
            self.wait = None;
        }
    }

    /// Whether somebody rang a line whose events are to be told.
    pub(crate) fn poll(&mut self, driver: &VmTaskDriver, cx: &mut Context<'_>) -> bool {
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
        matches!(wait.poll_wait(cx), Poll::Ready(Ok(())))
    }
}
