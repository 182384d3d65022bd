from tests.api.fixtures import alice, mallory, operator, region

__all__ = ["alice", "mallory", "operator", "region"]  # fixtures
