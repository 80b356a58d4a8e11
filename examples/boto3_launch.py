"""Launch one VM through the broker's EC2 API, wait for it, print its address, and terminate it.

Run ``isthmus accesskey create``, put the two lines into the environment, and set AWS_DEFAULT_REGION and
AWS_ENDPOINT_URL_EC2 (docs/how-to/use-boto3-and-awscli.md).
"""

import sys

import boto3


def main(image_name: str, flavor: str) -> None:
    """Launch, wait, print, terminate."""
    ec2 = boto3.resource("ec2")
    images = list(ec2.images.filter(Filters=[{"Name": "name", "Values": [image_name]}]))
    if not images:
        raise SystemExit(f"there is no image {image_name!r}; `isthmus image list` shows what there is")
    vm = ec2.create_instances(ImageId=images[0].id, InstanceType=flavor, MinCount=1, MaxCount=1)[0]
    vm.wait_until_running()
    vm.reload()
    print(vm.id, vm.state["Name"], vm.private_ip_address)
    vm.terminate()


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["debian-12", "small"]))
