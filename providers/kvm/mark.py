"""The mark that tells our domains and networks from strangers': an element in a metadata namespace of our own."""

from __future__ import annotations

from dataclasses import dataclass

from lxml import etree

from providers.port import VMSpec

NAMESPACE = "https://isthmus.dev/xmlns/domain/1"
_TAG = f"{{{NAMESPACE}}}"


@dataclass(frozen=True)
class Mark:
    """Whose a domain is. All empty for a stranger."""

    broker: str = ""
    vm: str = ""
    project: str = ""
    name: str = ""
    address: str = ""

    @classmethod
    def of(cls, spec: VMSpec, broker_id: str) -> Mark:
        """The mark for a VM."""
        address = spec.nics[0].address if spec.nics else ""
        return cls(broker_id, spec.id, spec.project, spec.name, address)

    @classmethod
    def parse(cls, text: str) -> Mark:
        """From the element as virDomainGetMetadata returns it; a damaged one is a stranger's."""
        try:
            element = etree.fromstring(text)
        except etree.XMLSyntaxError:
            return cls()
        # libvirt takes the namespace off what virDomainGetMetadata returns.
        return cls(**{name: element.findtext(f"{{*}}{name}") or "" for name in cls.__dataclass_fields__})

    def element(self) -> etree._Element:
        """As XML, for ``<metadata>``."""
        vm = etree.Element(f"{_TAG}vm", nsmap={"isthmus": NAMESPACE})
        for name in self.__dataclass_fields__:
            etree.SubElement(vm, f"{_TAG}{name}").text = getattr(self, name)
        return vm
