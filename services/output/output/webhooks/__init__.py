"""Webhooks by the Standard Webhooks specification: tenants' endpoints are told what became of their jobs.

projection ── telling.py ──▶ deliveries ── deliverer.py ──▶ the endpoint
   (one transaction with the status)          (leases, schedule, log of attempts)
"""
