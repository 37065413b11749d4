"""Make the buckets named on the command line that are missing; endpoint and keys are those boto3 finds in the environment."""

import sys

import boto3


def main(names: list[str]) -> None:
    """Make what isn't there; a bucket that is there stays as it is."""
    client = boto3.client("s3")
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in names:
        if name not in there:
            client.create_bucket(Bucket=name)
        print(f"{name}: {'there already' if name in there else 'made'}")


if __name__ == "__main__":
    main(sys.argv[1:])
