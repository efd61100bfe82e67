//! What is asked of the kernel: which core a process runs on, and how much CPU time it used.

use std::io;
use std::time::Duration;

/// The cores this process may run on, in order.
#[cfg(target_os = "linux")]
pub(crate) fn available() -> io::Result<Vec<usize>> {
    // SAFETY: all zeroes is a valid `cpu_set_t`: the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the given size into `set`, which is exactly that large.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((0..libc::CPU_SETSIZE as usize)
        // SAFETY: the index is below `CPU_SETSIZE`.
        .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
        .collect())
}

/// Keeps the calling thread, and the threads it starts from now on, on one core.
#[cfg(target_os = "linux")]
pub(crate) fn pin_to(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: all zeroes is a valid `cpu_set_t`: the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the index was checked to be below `CPU_SETSIZE`.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the kernel reads exactly the given size out of `set`.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Elsewhere than on Linux nothing is pinned.
#[cfg(not(target_os = "linux"))]
pub(crate) fn available() -> io::Result<Vec<usize>> {
    Ok(Vec::new())
}

/// Elsewhere than on Linux nothing is pinned.
#[cfg(not(target_os = "linux"))]
pub(crate) fn pin_to(_core: usize) -> io::Result<()> {
    Ok(())
}

/// The CPU time of this process so far, its own and the kernel's on its behalf.
pub(crate) fn cpu_time() -> io::Result<Duration> {
    // SAFETY: all zeroes is a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a `rusage` that the kernel may write.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(duration(usage.ru_utime) + duration(usage.ru_stime))
}

fn duration(time: libc::timeval) -> Duration {
    // Neither part of a process's CPU time is ever negative.
    Duration::from_secs(time.tv_sec.unsigned_abs())
        + Duration::from_micros(time.tv_usec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_grows() {
        let before = cpu_time().unwrap();
        let mut sum = 0u64;
        while cpu_time().unwrap() < before + Duration::from_millis(2) {
            sum = std::hint::black_box(sum + 1);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_is_pinned_to_one_available_core() {
        std::thread::spawn(|| {
            let last = *available().unwrap().last().unwrap();
            pin_to(last).unwrap();
            assert_eq!(available().unwrap(), [last]);
            assert!(pin_to(usize::MAX).is_err());
        })
        .join()
        .unwrap();
    }
}
