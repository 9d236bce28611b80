"""`tfew.serve`: an HTTP service and a web page for one predictor.

app              routes
messages         requests and responses
queue            batches requests
limits, metrics  limits of requests; Prometheus metrics
table            CSV files
server           uvicorn, and its graceful shutdown
"""
