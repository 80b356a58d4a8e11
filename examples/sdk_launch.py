"""Launch one VM through the SDK, wait until it runs, say why it is where it is, and delete it.

The broker and the token come from ISTHMUS_URL and ISTHMUS_TOKEN, or from the file that ``isthmus init`` wrote.
"""

import sys

import isthmus


def main(image: str, flavor: str) -> None:
    """Launch, wait, explain, delete."""
    client = isthmus.Client()
    vm = client.vms.create("example-1", image, flavor, labels={"team": "web"}, rank="cpu_free")
    vm.wait_until("running")
    print(vm.name, vm.site, vm.host, vm.address)
    print(vm.why().summary)
    vm.delete().wait()


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["debian-12", "small"]))
