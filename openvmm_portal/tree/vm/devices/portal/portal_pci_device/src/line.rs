// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! The way of one vector's events to the guest.

use hv_shmem::doorbell::Doorbell as _;
use hv_shmem::doorbell::EventFd;
use pal_async::driver::Driver as _;
use pal_async::driver::PollImpl;
use pal_async::fd::PollFdReady;
use pal_async::interest::InterestSlot;
use pal_async::interest::PollEvents;
use pci_core::msi::MsiRoute;
use pci_core::msi::MsiTarget;
use portal_device::standing::Delivery;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::task::Context;
use vmcore::vm_task::VmTaskDriver;

/// An event that other peers signal, and what delivers it.
///
/// Those peers have a descriptor of the same open file: they can read it, and
/// make it one whose reader sleeps. So nothing here reads it but
/// [`EventFd::take`], which never does.
pub(crate) struct Line {
    /// Before `event`: it is a wait on that descriptor.
    wait: Option<PollImpl<dyn PollFdReady>>,
    event: Arc<EventFd>,
    /// The hypervisor's own way from event to interrupt. Its event is `event`.
    route: Option<MsiRoute>,
}

impl Line {
    pub(crate) fn new(event: Arc<EventFd>) -> Self {
        Self {
            wait: None,
            event,
            route: None,
        }
    }

    /// The event that other peers signal.
    pub(crate) fn event(&self) -> &Arc<EventFd> {
        &self.event
    }

    /// Whether it rang since the last call.
    pub(crate) fn take(&self) -> bool {
        matches!(self.event.take(), Ok(true))
    }

    /// Rings it: what was under way may be lost, and one too many is harmless.
    pub(crate) fn ring_again(&self) {
        // A write to an event that a peer has filled could sleep; this empties it.
        self.take();
        let _ = self.event.ring();
    }

    /// Gives the line a route where the host has one: the event is the route's from then
    /// on. False when nothing changed.
    pub(crate) fn make_route(&mut self, target: &MsiTarget) -> bool {
        if self.route.is_some() {
            return false;
        }
        let Some(route) = target.new_route() else {
            return false;
        };
        let made = route.and_then(|route| {
            let event = route.event().as_fd().try_clone_to_owned()?;
            Ok((route, Arc::new(EventFd::from(event))))
        });
        match made {
            Ok((route, event)) => {
                // What rang before is not lost with the old event.
                if self.take() {
                    let _ = event.ring();
                }
                self.wait = None;
                self.event = event;
                self.route = Some(route);
                true
            }
            Err(error) => {
                tracelimit::warn_ratelimited!(
                    error = &*error as &dyn std::error::Error,
                    "no MSI route for a doorbell vector; it takes the way through user space"
                );
                false
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
            None => match driver.new_dyn_fd_ready(self.event.as_fd().as_raw_fd()) {
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
        let ready = wait.poll_fd_ready(cx, InterestSlot::Read, PollEvents::IN);
        if ready.is_pending() {
            return false;
        }
        // In this order: what rings after it was taken is ready again. The next
        // poll arms the wait.
        wait.clear_fd_ready(InterestSlot::Read);
        cx.waker().wake_by_ref();
        self.take()
    }
}
