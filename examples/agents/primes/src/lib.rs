//! Counts the primes below the command line's `below=N`: a program on no operating
//! system, in ring 3 of a partition of its own.
#![no_std]

use portal_warp::ExitCode;
use portal_warp::Machine;
use portal_warp::println;

portal_warp::entry!(main);

fn main(machine: Machine) -> ExitCode {
    let Some(below) = machine.argument("below").and_then(|n| n.parse().ok()) else {
        println!("say how far: below=N");
        return ExitCode(2);
    };
    let start = portal_warp::time::now();
    let count = (2..below).filter(|n: &u64| is_prime(*n)).count();
    let took = machine
        .clock()
        .nanoseconds(portal_warp::time::now() - start);
    println!("{count} primes below {below}, in {} us", took / 1000);
    ExitCode(0)
}

fn is_prime(n: u64) -> bool {
    (2..)
        .take_while(|d| d * d <= n)
        .all(|d| !n.is_multiple_of(d))
}
