"""Makes a VPC with a subnet and instances in moto, and prints what EC2 should say of them as JSON."""

import json
import sys

import boto3

ec2 = boto3.client("ec2", endpoint_url=sys.argv[1])
vpc_id = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
subnet_id = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.7.1.0/24")["Subnet"]["SubnetId"]
# One that moto knows; asking it for the list takes long.
image_id = "ami-12c6146b"


def make(address):
    answer = ec2.run_instances(
        ImageId=image_id,
        MinCount=1,
        MaxCount=1,
        InstanceType="t3.micro",
        SubnetId=subnet_id,
        PrivateIpAddress=address,
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "a <b> & c"}]}],
    )
    return answer["Instances"][0]["InstanceId"]


running = make("10.7.1.20")
stopped = make("10.7.1.21")
ec2.stop_instances(InstanceIds=[stopped])
terminated = make("10.7.1.22")
ec2.terminate_instances(InstanceIds=[terminated])
print(
    json.dumps(
        {
            "region": "eu-north-1",
            "running": running,
            "running_address": "10.7.1.20",
            "stopped": stopped,
            "stopped_address": "10.7.1.21",
            "terminated": terminated,
        }
    )
)
