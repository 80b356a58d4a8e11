"""KVM hosts of ours, driven through libvirt."""

from providers.kvm.provider import KvmProvider

__all__ = ["KvmProvider"]
