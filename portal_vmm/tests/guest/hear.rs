//! A guest that hears a doorbell, and the function that it hears it on.
#![expect(unsafe_code, reason = "images are assembled into the test binary")]

use hv_shmem::layout::PeerId;
use portal_ivshmem::DeniedWrite;
use portal_ivshmem::IvshmemV1;
use portal_ivshmem::IvshmemV1Config;
use portal_vmm::Bells;
use portal_vmm::DeviceRegion;
use portal_vmm::ResolvedDevice;
use portal_vmm::SharedRegion;
use portal_vmm::Writable;
use std::sync::Arc;

// Sets MSI-X vector 0 to interrupt 0x40, then halts until it has come once per
// unit of the word at 0x180000; counts at 0x180010.
crate::image!(
    hear_vector_0,
    "lea rax, [rip + 5f]",
    "mov rbx, 0x170400",
    "mov [rbx], ax",
    "mov word ptr [rbx + 2], 8",
    "mov byte ptr [rbx + 5], 0x8E",
    "shr rax, 16",
    "mov [rbx + 6], ax",
    "mov rbx, 0x160000",
    "mov word ptr [rbx], 0xFFF",
    "mov dword ptr [rbx + 2], 0x170000",
    "lidt [rbx]",
    "mov edx, 0xFEE000F0",
    "mov dword ptr [rdx], 0x1FF",
    "mov edx, 0xE0008014",
    "mov eax, [rdx]",
    "and eax, 0xFFFFFFF0",
    "mov dword ptr [rax], 0xFEE00000",
    "mov dword ptr [rax + 4], 0",
    "mov dword ptr [rax + 8], 0x40",
    "mov dword ptr [rax + 12], 0",
    "mov edx, 0xE0008034",
    "movzx eax, byte ptr [rdx]",
    "mov edx, 0xE0008000",
    "add edx, eax",
    "mov word ptr [rdx + 2], 0x8000",
    "mov byte ptr [0x180020], 1",
    "3: cli",
    "mov eax, [0x180010]",
    "cmp eax, [0x180000]",
    "jae 4f",
    "sti",
    "hlt",
    "jmp 3b",
    "4: out 0xf4, eax",
    "5: inc dword ptr [0x180010]",
    "push rdx",
    "mov edx, 0xFEE000B0",
    "mov dword ptr [rdx], 0",
    "pop rdx",
    "iretq",
);

/// What the owner of a section may write of a region.
pub(crate) fn writable(region: &SharedRegion) -> Writable {
    region.writable(portal_resources::Mapping::Sectioned)
}

/// An ivshmem function with two vectors, as this peer of the region.
pub(crate) fn ivshmem(region: &Arc<SharedRegion>, peer: u16, bells: &Arc<Bells>) -> ResolvedDevice {
    let peer = PeerId(peer);
    let device = IvshmemV1::new(IvshmemV1Config {
        peer: peer.0,
        region_len: region.size(),
        windows: region.parts(peer, writable(region)),
        denied_write: DeniedWrite::Stop,
        vectors: 2,
        intx: true,
    });
    ResolvedDevice {
        name: "ivshmem0".to_owned(),
        device: Box::new(device.unwrap()),
        slot: None,
        region: Some(DeviceRegion {
            region: region.clone(),
            peer,
            writable: writable(region),
        }),
        storage: None,
        fabric: Some(bells.clone()),
        member: None,
    }
}
